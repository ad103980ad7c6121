"""Tasks: what a layer's tokens are worth, image by image, without a head and with one.

A task (`Saliency`, `KnnSegmentation`, `Retrieval`, `Correspondence`) is frozen, JSON-able settings:
``task.settings()`` belongs into a recipe. ``task.on(data, model)`` (``train=`` too for
`KnnSegmentation`) gives an evaluation, picklable and deterministic, whose units may be judged in
any order and on any machine; ``evaluation.py`` says how. Values are summarised and compared by
``task.measures`` with `soapworks.evaluation.summaries`.

    data = read_masks("ECSSD")
    task = Saliency(seeds=("vmax",))
    evaluation = task.on(data, backbone)
    for unit in range(evaluation.n_units):  # one pass for all layers and heads
        (image,) = evaluation.inputs(unit)
        tokens = backbone.features(image[None], layers)
        for layer, head in ...:
            kept[layer, head].append(evaluation.keep(unit, [head(tokens[layer])[0].numpy()]))
    rows = evaluation.rows(kept[layer, head])

Images of ``resize="native"`` tasks differ in size: build the backbone without an image size, and
put images of equal shape into one batch. Imports NumPy, SciPy and Pillow alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

from soapworks.errors import InputError
from soapworks.evaluation.tasks.correspondence import Correspondence
from soapworks.evaluation.tasks.evaluation import Evaluation, Row, Task, evaluate
from soapworks.evaluation.tasks.geometry import ModelInput
from soapworks.evaluation.tasks.retrieval import Retrieval
from soapworks.evaluation.tasks.saliency import Saliency
from soapworks.evaluation.tasks.segmentation import KnnSegmentation

__all__ = [
    "TASKS",
    "Correspondence",
    "Evaluation",
    "KnnSegmentation",
    "ModelInput",
    "Retrieval",
    "Row",
    "Saliency",
    "Task",
    "evaluate",
    "task_from",
]

TASKS: Mapping[str, Callable[..., Task]] = {
    task.name: task for task in (Saliency, KnnSegmentation, Retrieval, Correspondence)
}
"""Name -> task."""


def task_from(name: str, settings: Mapping[str, Any]) -> Task:
    """Return a task from its name and settings, such as a recipe holds.

    Parameters
    ----------
    name
        Key of `TASKS`.
    settings
        As ``task.settings()`` returns them; what is missing has its default.

    Raises
    ------
    InputError
        An unknown task or setting, or a value that cannot be used.

    Examples
    --------
    >>> task_from("retrieval", Retrieval().settings()) == Retrieval()
    True
    """
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    known = TASKS[name]().settings()
    if unknown := sorted(settings.keys() - known.keys()):
        raise InputError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    return TASKS[name](
        **{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
    )
