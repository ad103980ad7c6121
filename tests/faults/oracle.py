"""What a store must look like: read from its files by FORMAT.md, not by the code under test."""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Forwards = Counter[tuple[int, tuple[str, ...]]]
"""(images, layers) of a forward pass -> how often."""


@dataclass(frozen=True)
class Published:
    """A product as its bytes on disk say."""

    address: str
    stated: dict[str, Any]
    """``files`` of its record."""
    found: dict[str, dict[str, Any]]
    """The same, from the bytes that are there."""


def published(store: Path) -> dict[str, Published]:
    """Return address -> product, for every completion record."""
    found = {}
    for file in sorted(store.glob("*/*/record.json")):
        address = f"{file.parent.parent.name}/{file.parent.name}"
        try:
            record = json.loads(file.read_bytes())
            checksum = record.pop("checksum")
        except (ValueError, KeyError):
            found[address] = Published(address, {}, {})
            continue
        if hashlib.sha256(as_written(record)).hexdigest() != checksum:
            found[address] = Published(address, {}, {})
            continue
        data = file.parent / record["attempt"]
        # Where the record names a file that is not there, it is left out here and they differ.
        files = {name: of(data / name) for name in record["files"] if (data / name).is_file()}
        found[address] = Published(address, record["files"], files)
    return found


def as_written(document: dict[str, Any]) -> bytes:
    """Return the bytes that a record's checksum is of."""
    return json.dumps(document, sort_keys=True, indent=1).encode() + b"\n"


def of(file: Path) -> dict[str, Any]:
    """Return size and digest of a file, as a record has them."""
    data = file.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def differences(store: Path, reference: dict[str, Published]) -> list[str]:
    """Return what is published and is not, to the byte, what an undisturbed run published."""
    wrong = []
    for address, product in published(store).items():
        expected = reference.get(address)
        if expected is None:
            wrong.append(f"{address} is of no undisturbed run")
        elif product.stated != expected.stated:
            wrong.append(f"{address}: its record differs")
        elif product.found != expected.found:
            wrong.append(f"{address}: its bytes differ")
    return wrong


def lacking(store: Path, reference: Path, kinds: tuple[str, ...]) -> Forwards:
    """Return the forward passes that a run on ``store`` has to do, in blocks.

    A block is done for a layer if its product is published and there in full size, or if an
    attempt has a note of the block whose files are there with those very bytes.

    Parameters
    ----------
    reference
        A store in which everything is published, features too.
    kinds
        What passes through the network are made for: ``features``, or ``moments`` and
        ``responses`` where no features are kept.
    """
    recipes = {key: recipe for key, _, recipe in _products(reference, "features")}
    missing: dict[tuple[str, str, int], list[str]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for kind in kinds:
        for key, address, own in _products(reference, kind):
            recipe = recipes[own.get("features", key)]
            n, block = recipe["input"]["n_images"], recipe["block_images"]
            source = json.dumps(recipe["input"], sort_keys=True)
            sizes[source] = n, block
            done = _done(store / kind / address.name)
            for number in range(-(-n // block)):
                if done is not None and number not in done:
                    layers = missing.setdefault((kind, source, number), [])
                    layers.append(recipe["subject"]["layer"])
    passes = Forwards()
    for (_, source, number), layers in missing.items():
        n, block = sizes[source]
        passes[min(block, n - number * block), tuple(sorted(layers))] += 1
    return passes


def _products(store: Path, kind: str) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    for address in sorted((store / kind).iterdir()):
        record = json.loads((address / "record.json").read_bytes())
        yield record["key"], address, json.loads((address / "recipe.json").read_bytes())


def _done(address: Path) -> set[int] | None:
    """Return the numbers of the blocks that are done; None if all are."""
    with contextlib.suppress(ValueError, OSError):
        record = json.loads((address / "record.json").read_bytes())
        data = address / record["attempt"]
        sizes = {name: file["bytes"] for name, file in record["files"].items()}
        if all((data / n).is_file() and (data / n).stat().st_size == s for n, s in sizes.items()):
            return None
    done = set()
    for note in address.glob("attempt-*/parts/block-*.json"):
        attempt = note.parent.parent
        with contextlib.suppress(ValueError):  # torn by a power cut
            files = json.loads(note.read_bytes())["files"]
            if all(
                (attempt / name).is_file() and of(attempt / name) == digest
                for name, digest in files.items()
            ):
                done.add(int(note.stem.partition("-")[2]))
    return done


def forwards(file: Path) -> Forwards:
    """Return the forward passes that a child wrote down."""
    lines = file.read_text().splitlines() if file.exists() else []
    return Counter(
        (int(n), tuple(sorted(layers.split(",")))) for n, layers in map(str.split, lines)
    )


def by_layer(passes: Forwards) -> Forwards:
    """Return the passes as they would be if every layer had one of its own."""
    found = Forwards()
    for (n, layers), times in passes.items():
        for layer in layers:
            found[n, (layer,)] += times
    return found


def n_images(passes: Forwards) -> int:
    """Return the number of images in some forward passes."""
    return sum(n * times for (n, _), times in passes.items())


def tree(store: Path) -> Iterator[str]:
    """Yield the paths of all files, attempts without their names."""
    for file in store.rglob("*"):
        if file.is_file():
            parts = file.relative_to(store).parts
            yield "/".join("attempt" if p.startswith("attempt-") else p for p in parts)
