"""Lists of models: what is read from them, and whose matter an error is."""

from pathlib import Path

import fsspec
import pytest

from soapworks.errors import (
    CheckpointError,
    DamagedProductError,
    EngineError,
    InputError,
    StoreError,
)
from soapworks.tasks.plan.models import (
    ModelEntry,
    SomeFailedError,
    is_of_one_model,
    models_of,
    read_model_list,
)
from soapworks.tasks.settings import RunOptions, ScoreSettings
from tests.tasks.scored import summary

LIST = """
# what is scored every night
- vit_base_patch16_224.mae
- checkpoint: s3://models/step_1000.safetensors
  architecture: vit_base_patch16_224
  image_size: 192
  preprocessing: timm
  layers: [norm, blocks.5]
  mean: [0.5, 0.5, 0.5]
"""


def test_a_list_is_read(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(LIST)
    first, second = read_model_list(str(tmp_path / "models.yaml"))
    assert first == ModelEntry(checkpoint="vit_base_patch16_224.mae")
    assert second.layers == "norm,blocks.5"
    common = ScoreSettings(layers="all", mu=3, image_size=224)
    own = second.request("photos", common, RunOptions()).settings
    expected = {"layers": "norm,blocks.5", "image_size": 192, "preprocessing": "timm"}
    expected |= {"mean": (0.5, 0.5, 0.5)}
    assert own == common.model_copy(update=expected)


def test_a_list_is_read_from_a_url() -> None:
    fsspec.filesystem("memory").pipe_file("/lists/models.yaml", LIST.encode())
    assert len(read_model_list("memory://lists/models.yaml")) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no list"),
        ("checkpoint: a", "holds no list"),
        ("- [a, b]", "entry 1: neither the name"),
        ("- a\n- checkpoint: b\n  layer: norm", "entry 2: there is no field 'layer'; an entry has"),
        ("- architecture: vit", "entry 1: checkpoint: Field required"),
        ("- checkpoint: a\n  mu: 3", "there is no field 'mu'"),
        ("- {a", "is invalid YAML"),
        ("- !!python/object/apply:os.system [id]", "is invalid YAML"),
        ("- checkpoint: a\n  image_size: large", "entry 1: image_size"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "models.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_model_list(str(tmp_path / "models.yaml"))


def test_a_list_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"models cannot be read: .*none\.yaml is not there"):
        read_model_list(str(tmp_path / "none.yaml"))


def test_a_list_without_end(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_bytes(b"- a\n" * 300_000)
    with pytest.raises(InputError, match="longer than 1 MiB"):
        read_model_list(str(tmp_path / "models.yaml"))


def test_a_setting_of_its_own_is_checked() -> None:
    entry = ModelEntry(checkpoint="a", precision="float8")
    with pytest.raises(InputError, match="a: precision: Input should be 'float32'"):
        entry.request("photos", ScoreSettings(), RunOptions())


def test_every_model_once_and_with_an_architecture() -> None:
    own = ModelEntry(checkpoint="b", architecture="vit_small_patch16_224")
    models = models_of(["a", own, "a"], "vit_base_patch16_224")
    assert [(m.checkpoint, m.architecture) for m in models] == [
        ("a", "vit_base_patch16_224"),
        ("b", "vit_small_patch16_224"),
    ]
    with pytest.raises(InputError, match="no checkpoint to score"):
        models_of([], None)


def test_whose_matter_an_error_is() -> None:
    assert is_of_one_model(CheckpointError("cut short"))
    assert is_of_one_model(DamagedProductError("gone"))
    assert is_of_one_model(ZeroDivisionError())
    assert not is_of_one_model(StoreError("no space left"))
    assert not is_of_one_model(EngineError("no server"))
    assert not is_of_one_model(KeyboardInterrupt())


def test_what_failed_is_told() -> None:
    error = SomeFailedError({"a": "cut short"}, [summary("b"), summary("c")])
    assert str(error) == "1 of 3 checkpoints failed (a: cut short)"
