"""Identities: which part of a file is the checkpoint, recorded and reported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from soapworks.errors import CheckpointError
from soapworks.storage_schemas.layout.names import encode
from soapworks.storage_schemas.layout.recipes import CheckpointRecipe
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Notice, listening
from soapworks.tasks.inputs.checkpoint import (
    IDENTITY_FILE,
    find_identity,
    identify,
    read_identity,
    report_part,
)
from tests.soapworks.backbones.conftest import plain_model

ARCHITECTURE = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    raw = plain_model(ARCHITECTURE, depth=12, embed_dim=192).state_dict()
    average = {name: tensor + 1 for name, tensor in raw.items()}
    path = tmp_path_factory.mktemp("file") / "a.pth"
    torch.save({"model": raw, "model_ema": average}, path)
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_the_part_is_recorded_and_reported(store: Store, file: str) -> None:
    product = identify(store, file, ARCHITECTURE)
    assert product.facts["part"] == "model_ema"
    identity = read_identity(product)
    assert (identity.part, identity.asked_part) == ("model_ema", None)
    heard: list[Any] = []
    with listening(heard.append):
        report_part(identity)
    assert heard == [Notice(f"{file}: the weights are those under 'model_ema'")]


def test_parts_of_a_file_are_checkpoints_of_their_own(store: Store, file: str) -> None:
    average, raw = identify(store, file, ARCHITECTURE), identify(store, file, ARCHITECTURE, "model")
    assert average.facts["digest"] != raw.facts["digest"]
    for part, product in ((None, average), ("model", raw)):
        found = find_identity(store, file, ARCHITECTURE, part)
        assert found is not None
        assert found.key == product.key
    with pytest.raises(CheckpointError, match="no part 'nonsense'"):
        identify(store, file, ARCHITECTURE, "nonsense")


def test_a_recipe_without_a_part_has_the_key_that_it_had() -> None:
    recipe = CheckpointRecipe(source="0" * 64, architecture=None, version=1)
    assert json.loads(recipe.canonical_json()) == {
        "kind": "checkpoints", "version": 1, "source": "0" * 64, "architecture": None
    }  # fmt: skip


def test_what_the_first_version_found_is_found_anew(store: Store, file: str) -> None:
    """Version 1 took the raw weights beside an average without a word."""
    product = identify(store, file, ARCHITECTURE)
    del product.record["facts"]["part"]
    (store.location / product.address / "record.json").write_bytes(encode(product.record))
    assert find_identity(Store(store.url), file, ARCHITECTURE) is None


def test_an_identity_of_the_first_version_is_read(store: Store, file: str) -> None:
    product = identify(store, file, ARCHITECTURE)
    document = json.loads(product.read(IDENTITY_FILE))
    for name in ("part", "asked_part", "notes"):
        del document[name]

    class Old:
        location = product.location

        def read(self, _: str) -> bytes:
            return json.dumps(document).encode()

    old: Any = Old()
    assert read_identity(old).part == ""
