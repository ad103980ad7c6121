"""From what a training script saved to the backbone's own tensors.

Training scripts wrap the weights in dictionaries (``state_dict``, ``model``, ``teacher``...) and
prefix their names (``module.``, ``backbone.``...).  A part is a place where a patch embedding lies:
the wrappers' keys and the prefix that lead to it.  Where a file holds several, the words in their
names decide: averaged before raw weights, the teacher before the student, for I-JEPA the context
``encoder`` before the ``target_encoder`` and for MoCo v3 the ``base_encoder``, as their authors
evaluate them. Parts with other names are never guessed between.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from soapworks.backbones.files.contents import Group, NamelessAverage, find_groups
from soapworks.errors import CheckpointError, NotACheckpointError

WORDS = (
    *("encoder", "target_encoder", "base_encoder"),
    *("state_dict", "model_state_dict", "model", "module", "_forward_module", "backbone"),
    *("network", "net", "base_model", "timm_model", "vit", "image_encoder", "image_backbone"),
    *("visual_encoder", "vision_model", "vision_tower", "feature_extractor", "trunk"),
)
"""Words that lead to a backbone's weights, the preferred ones first."""

_AVERAGE, _TEACHER, _STUDENT = -2, -1, 1
_ROLES = {
    _AVERAGE: re.compile(r"(^|_)(ema|swa|average|averaged|avg|polyak|shadow)(_|$)"),
    _TEACHER: re.compile(r"(^|_)teacher(_|$)"),
    _STUDENT: re.compile(r"(^|_)(student|current_model_state)(_|$)"),
}
"""Words that say what the weights are in training, the preferred ones first."""

ANCHORS = (
    "module.visual.trunk.patch_embed.proj.weight",
    "visual.trunk.patch_embed.proj.weight",
    "visual.patch_embed.proj.weight",
    "vision_encoder.patch_embed.proj.weight",
    "beit3.vision_embed.proj.weight",
    "radio_model.model.patch_generator.embedder.weight",
    "preprocessor.patchifier.proj.weight",
    "visual.conv1.weight",
    "patch_embed.proj.weight",
    "patch_embed.projection.weight",
)
"""Names of the patch embedding that timm's conversions know, longer ones first."""


class Part(NamedTuple):
    """A backbone's place in a file."""

    group: Group
    prefix: str
    """Beginning of the backbone's names within the group."""

    @property
    def name(self) -> str:
        """Wrappers and prefix, e.g. ``teacher/backbone.``; empty for a plain state_dict."""
        return "/".join([*self.group.path, self.prefix]).rstrip("/")

    @property
    def words(self) -> tuple[str, ...]:
        """Keys and prefix, word by word."""
        return (*self.group.path, *self.prefix.split(".")[:-1])


class Unwrapped(NamedTuple):
    """The backbone's tensors and how they were found."""

    tensors: dict[str, torch.Tensor]
    """Names without prefix."""
    part: str
    """Wrappers and prefix that were taken off, e.g. ``teacher/backbone.``; empty if none."""
    others: tuple[str, ...] = ()
    """Other parts with a backbone."""


def unwrap(content: Mapping[Any, Any], *, where: str, part: str | None = None) -> Unwrapped:
    """Find the backbone's tensors in what a file holds.

    Parameters
    ----------
    content
        What ``read_weights_file`` returned.
    where
        The file, for messages.
    part
        Name, or words of the name, of the part to take; chosen by the rules above when None.

    Raises
    ------
    NotACheckpointError
        If no named weights are in it: the state of an optimizer, of random generators.
    CheckpointError
        If there are several parts and no rule chooses, or a tensor claims more bytes than its
        storage holds.

    Examples
    --------
    >>> raw, average = ({"patch_embed.proj.weight": torch.ones(8, 3, 4, 4)} for _ in range(2))
    >>> unwrap({"model": raw, "model_ema": average}, where="a.pth").part
    'model_ema'
    """
    groups = _named(find_groups(content, where=where), where)
    parts = [Part(group, prefix) for group in groups for prefix in _prefixes(group.tensors)]
    if not parts:
        parts = [Part(group, _common_prefix(group.tensors)) for group in _with_weights(groups)]
    if not parts:
        found = ", ".join(sorted(str(key)[:40] for key in list(content)[:100])[:8]) or "nothing"
        raise NotACheckpointError(
            f"{where} holds no tensors under names of weights (found {found}): name the file with "
            "the model's state_dict"
        )
    chosen = _named_part(parts, part, where) if part else _choose(parts, where)
    kept = {
        name.removeprefix(chosen.prefix): tensor
        for name, tensor in chosen.group.tensors.items()
        if name.startswith(chosen.prefix)
    }
    for name, tensor in kept.items():
        _check_tensor(name, tensor, where)
    return Unwrapped(kept, chosen.name, tuple(other.name for other in parts if other != chosen))


def _named(found: Sequence[Group | NamelessAverage], where: str) -> list[Group]:
    """Give averages that were saved as lists the names of the weights beside them."""
    groups = [group for group in found if isinstance(group, Group)]
    for average in found:
        if not isinstance(average, NamelessAverage):
            continue
        shapes = [tensor.shape for tensor in average.tensors]
        twin = next(
            (g for g in groups if [tensor.shape for tensor in g.tensors.values()] == shapes), None
        )
        if twin is not None and shapes:
            groups.append(
                Group(average.path, dict(zip(twin.tensors, average.tensors, strict=True)))
            )
        elif shapes:
            raise CheckpointError(
                f"{where} holds averaged weights without names ('{'/'.join(average.path)[:80]}') "
                "that match no state_dict beside them: save the averaged model's state_dict"
            )
    return groups


def _prefixes(names: Mapping[str, Any]) -> list[str]:
    found = []
    for name in names:
        for anchor in ANCHORS:
            if name == anchor or name.endswith(f".{anchor}"):
                found.append(name.removesuffix(anchor))
                break
    return found


def _with_weights(groups: Sequence[Group]) -> list[Group]:
    return [
        group
        for group in groups
        if any(re.search(r"(^|[._])weight$", n) and t.ndim > 1 for n, t in group.tensors.items())
    ]


def _common_prefix(names: Mapping[str, Any]) -> str:
    prefix = ""
    while True:
        word = next(iter(names)).removeprefix(prefix).partition(".")[0]
        longer = f"{prefix}{word}."
        if _rank(word) is None or not all(name.startswith(longer) for name in names):
            return prefix
        prefix = longer


def _rank(word: str) -> int | None:
    """Return the place of a word in the order of preference; None for an unknown word."""
    if _role(word):
        return len(WORDS)
    return WORDS.index(word) if word in WORDS else None


def _role(word: str) -> int:
    return next((role for role, pattern in _ROLES.items() if pattern.search(word.lower())), 0)


def _choose(parts: Sequence[Part], where: str) -> Part:
    # MoCo v3 is evaluated with its base encoder.
    all_words = [part.words for part in parts]
    twins = [tuple(w.replace("momentum_", "base_") for w in words) for words in all_words]
    left = [
        part
        for part, twin in zip(parts, twins, strict=True)
        if twin == part.words or twin not in all_words
    ]
    if len(left) == 1:
        return left[0]
    for part in left:
        is_average = any(_role(word) == _AVERAGE for word in part.words)
        if not is_average and any(_rank(word) is None for word in part.words):
            raise _undecided(parts, where)

    def preference(part: Part) -> tuple[int, list[int], list[int]]:
        role = min((_role(word) for word in part.words), default=0)
        path, prefix = (
            [rank for word in words if (rank := _rank(word)) is not None]
            for words in (part.group.path, part.prefix.split(".")[:-1])
        )
        # The wrappers' order counts; an unprefixed backbone in one of them is the model itself.
        return role or max(map(_role, part.words), default=0), path, sorted(prefix)

    best, second, *_ = ranked = sorted(left, key=preference)
    # A teacher beside a model without a name may be another model that is distilled.
    is_distilled = preference(best)[0] == _TEACHER and any(not part.words for part in ranked)
    if preference(best) == preference(second) or is_distilled:
        raise _undecided(parts, where)
    return best


def _named_part(parts: Sequence[Part], name: str, where: str) -> Part:
    wanted = tuple(word for word in re.split(r"[/.]", name) if word)
    exact = [part for part in parts if part.name.strip("./") == name.strip("./")]
    fitting = exact or [part for part in parts if _contains(part.words, wanted)]
    if not fitting:
        raise CheckpointError(f"{where} has no part {name[:80]!r}; its parts are {_list(parts)}")
    return _choose(fitting, where)


def _contains(words: Sequence[str], wanted: Sequence[str]) -> bool:
    n = len(wanted)
    return any(tuple(words[i : i + n]) == tuple(wanted) for i in range(len(words) - n + 1))


def _undecided(parts: Sequence[Part], where: str) -> CheckpointError:
    return CheckpointError(
        f"{where} holds several backbones, under {_list(parts)}: choose with --part"
    )


def _list(parts: Sequence[Part]) -> str:
    names = [f"'{part.name[:80]}'" if part.name else "'' (no prefix)" for part in parts[:8]]
    more = len(parts) - len(names)
    return " or ".join(names) + (f" or {more} more" if more else "")


def _check_tensor(name: str, tensor: torch.Tensor, where: str) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise CheckpointError(
            f"{where}: tensor {name!r} is sparse or quantized: save the weights as dense tensors"
        )
    # A stride of 0 lets a few bytes claim any shape; copying it would exhaust memory.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{where}: tensor {name!r} claims shape {tuple(tensor.shape)} but holds only "
            f"{tensor.untyped_storage().nbytes()} bytes: save it again with .contiguous()"
        )
