"""What is read from hostile files: checkpoints, and stores."""

import io
import json
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.hostile import NASTY, Ask, changed_bytes, changed_document, encoded, nested


def checkpoints(whole: Path, folder: Path, seeds: range) -> Iterator[tuple[int, Ask]]:
    """Yield, per seed, reading a checkpoint of which one file was changed."""
    import torch
    from safetensors.torch import load_file

    pth = io.BytesIO()
    torch.save({"model": load_file(whole / "model.safetensors")}, pth)
    config = json.loads((whole / "config.json").read_bytes())
    weights = (whole / "model.safetensors").read_bytes()
    makers: list[Callable[[random.Random], tuple[str, bytes]]] = [
        lambda rng: ("config.json", _config(config, rng)),
        lambda rng: ("model.safetensors", _safetensors(weights, rng)),
        lambda rng: ("model.safetensors", changed_bytes(weights, rng)),
        lambda rng: ("pytorch_model.bin", changed_bytes(pth.getvalue(), rng)),
        lambda rng: ("pytorch_model.bin", _archive(pth.getvalue(), rng)),
    ]
    for seed in seeds:
        rng = random.Random(seed)
        name, data = rng.choice(makers)(rng)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in ("config.json", "model.safetensors"):
            if not (file == "model.safetensors" and name == "pytorch_model.bin"):
                shutil.copy(whole / file, folder / file)
        (folder / name).write_bytes(data)
        yield seed, lambda: _read_checkpoint(folder)


def _read_checkpoint(folder: Path) -> None:
    from soapworks.backbones import build_backbone, open_checkpoint

    checkpoint = open_checkpoint(str(folder))
    _ = checkpoint.digest
    build_backbone(checkpoint)


def _config(config: dict[str, Any], rng: random.Random) -> bytes:
    how = rng.random()
    if how < 0.1:
        return nested(rng.choice([900, 100_000]), rng)
    if how < 0.25:
        return changed_bytes(encoded(config), rng)
    if how < 0.4:  # arguments that were not there
        names = ("norm_layer", "act_layer", "img_size", "depth", "num_heads", "embed_dim", "file")
        nasty = {rng.choice(names): rng.choice(NASTY)}
        field = rng.choice(["model_args", "pretrained_cfg"])
        return encoded({**config, field: {**config[field], **nasty}})
    return encoded(changed_document(config, rng))


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.15:
        new = nested(rng.choice([900, 100_000]), rng)
    else:
        new = encoded(changed_document(header, rng))
    stated = len(new) if rng.random() < 0.9 else rng.choice([0, 2**40, 2**63, len(new) + 7])
    return struct.pack("<Q", stated) + new + rest


def _archive(data: bytes, rng: random.Random) -> bytes:
    """Return a torch file with records added, renamed, or another pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(out, "w") as new:
        for record in whole.infolist():
            content, name = whole.read(record), record.filename
            if name.endswith("data.pkl"):
                content = _pickle(content, rng)
            elif rng.random() < 0.02:
                name = f"archive/../../../{name}"
            new.writestr(name, content)
        if rng.random() < 0.3:
            new.writestr("../../../outside", b"x")
            new.writestr("/outside", b"x")
    return out.getvalue()


def _pickle(data: bytes, rng: random.Random) -> bytes:
    how = rng.randrange(6)
    if how == 0:
        depth = rng.choice([200, 20_000])
        return b"\x80\x02" + b"(" * depth + b"l" * depth + b"."
    if how == 1:
        depth = rng.choice([200, 20_000])
        return b"\x80\x02" + b"]" * (depth + 1) + b"a" * depth + b"."
    if how == 2:  # texts and numbers that claim to be long
        opcode = rng.choice([b"X", b"B", b"T", b"\x8b"])
        return b"\x80\x04" + opcode + struct.pack("<I", 2**31 - 1) + b"x."
    if how == 3:
        opcode = rng.choice([b"\x8d", b"\x8e", b"\x96"])
        return b"\x80\x05" + opcode + struct.pack("<Q", 2 ** rng.choice([31, 40, 62])) + b"x."
    if how == 4:  # a memo of any number
        return data[:-1] + b"r" + struct.pack("<I", 2**32 - 1) + b"."
    if rng.random() < 0.5:
        return pickle.dumps({rng.choice(["model", "state_dict"]): rng.choice(NASTY)}, 2)
    return changed_bytes(data, rng)


def stores(whole: Path, folder: Path, seeds: range) -> Iterator[tuple[int, Ask]]:
    """Yield, per seed, reading a store of which one file was changed, its digests made to fit."""
    for seed in seeds:
        rng = random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        record = rng.choice(sorted(folder.glob("*/*/record.json")))
        files = [record, record.parent / "recipe.json"]
        files += [file for file in record.parent.glob("attempt-*/**/*") if file.is_file()]
        documents = [file for file in files if file.suffix == ".json"]
        file = rng.choice(documents if rng.random() < 0.7 else files)
        file.write_bytes(_changed(file, rng))
        if rng.random() < 0.8:
            forge(record, file)
        address = f"{record.parent.parent.name}/{record.parent.name}"
        yield seed, partial(_read_store, folder, address)


def _changed(file: Path, rng: random.Random) -> bytes:
    data = file.read_bytes()
    if file.suffix != ".json" or rng.random() < 0.1:
        return changed_bytes(data, rng)
    if rng.random() < 0.1:
        return nested(rng.choice([50, 900, 100_000]), rng)
    return encoded(changed_document(json.loads(data), rng))


def forge(record: Path, changed: Path) -> None:
    """Make a record fit what was changed, as somebody would who wants to be believed."""
    from tests.faults.oracle import as_written, of

    try:
        content = json.loads(record.read_bytes())
        content.pop("checksum", None)
        name = "/".join(changed.relative_to(record.parent).parts[1:])
        if name in content["files"]:
            content["files"][name] = of(changed)
        import hashlib

        content["checksum"] = hashlib.sha256(as_written(content)).hexdigest()
        record.write_bytes(as_written(content))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return  # what is no record cannot be made one


def _read_store(folder: Path, address: str) -> None:
    from soapworks.errors import SoapworksError
    from soapworks.heads.head import SoapHead
    from soapworks.storage_schemas.layout.arrays import ARRAYS, open_array
    from soapworks.storage_schemas.layout.tables import (
        HEAD_SCORES,
        SCORES,
        SCORES_TABLE,
        read_scores,
    )
    from soapworks.storage_schemas.store import Store
    from soapworks.tasks.inputs.checkpoint import read_identity
    from soapworks.tasks.inputs.images import read_manifest

    store = Store(folder)

    def arrays() -> None:
        product = store.product(address)
        for spec in ARRAYS[product.kind]:
            array = open_array(product.open_zarr(), product.kind, spec.name)
            _ = array[:4] if array.shape and array.shape[0] > 4 else array[...]

    def tables() -> None:
        product = store.product(address)
        if product.kind == "images":
            read_manifest(product)
        elif product.kind == "checkpoints":
            read_identity(product).resolve_layers("all")
        elif product.kind in ("scores", "heads"):
            columns = SCORES if product.kind == "scores" else HEAD_SCORES
            n_rows = product.facts.get("n_components")
            read_scores(product.read(SCORES_TABLE), columns, n_rows=n_rows)

    kind = address.partition("/")[0]
    asks: list[Ask] = [
        lambda: store.products(),
        lambda: store.unreadable(),
        lambda: store.abandoned(),
        lambda: store.product(address).verify(),
        lambda: store.product(address).recipe,
        tables,
    ]
    if kind in ARRAYS:
        asks.append(arrays)
    if kind == "heads":
        asks.append(lambda: SoapHead.load(folder / address))
    for ask in asks:
        try:
            ask()
        except SoapworksError:
            continue
