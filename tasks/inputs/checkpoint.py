"""Identify a checkpoint: digest its tensors, once, and remember what its architecture is like."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from soapworks.backbones.info import BackboneInfo, check_image_size
from soapworks.errors import DamagedProductError, InputError
from soapworks.names import redact
from soapworks.remote import RemoteError, facts_of, is_url
from soapworks.storage_schemas.layout.recipes import CheckpointRecipe
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.get_or_make import get_or_make

IDENTITY_FILE = "identity.json"
_ASKED = ("asked", "asked_architecture", "asked_part")
_FACTS = ("identifier", *_ASKED, "files", "digest", "architecture", "part")


@dataclass(frozen=True, eq=False)
class Identity(BackboneInfo):
    """A checkpoint and its backbone, known without reading its tensors again."""

    identifier: str
    """What the user called it, as all addresses here without user, password and query."""
    asked: str
    """The identifier, as an absolute path where it is one."""
    asked_architecture: str | None
    """The architecture that the user named."""
    files: list[list[Any]]
    """Fingerprint of each of its files, see ``soapworks.remote.facts_of``."""
    digest: str
    """Digest of the tensors."""
    model_args: dict[str, Any]
    """Arguments beyond the architecture's name."""
    part: str = ""
    """Wrappers and prefix that lead to the weights in their file, e.g. ``teacher/backbone.``."""
    asked_part: str | None = None
    """The part that the user named."""
    notes: tuple[str, ...] = ()
    """What was done to fit the weights to the architecture."""

    def input_side(self, side: int | None) -> int:
        """Return the side of the square input, pixels: the one asked for or the model's own.

        Raises
        ------
        InputError
            If it is no multiple of the patch size, or the model's own input is not square.
        """
        height, width = self.image_size if side is None else (side, side)
        if height != width:
            raise InputError(
                f"{self.identifier} has an input of {height} x {width} pixels and images are "
                "scored square: give --image-size"
            )
        check_image_size((height, width), self.patch_size)
        return height

    def grid_at(self, side: int) -> tuple[int, int]:
        """Return rows and columns of patches of an image of this side, pixels."""
        return replace(self, image_size=(side, side)).grid


def find_identity(
    store: Store, identifier: str, architecture: str | None, part: str | None = None
) -> Product | None:
    """Return what the store knows of a checkpoint whose files have not changed since."""
    url, asked = _asked(identifier), redact(_asked(identifier))
    for product in store.products("checkpoints"):
        facts = product.facts
        if "part" not in facts:  # version 1 took raw weights beside an average without a word
            continue
        if tuple(map(facts.get, _ASKED)) != (asked, architecture, part):
            continue
        # Addresses in a record have lost their secrets, which opening them may need.
        addresses = (file[0].replace(asked, url, 1) for file in facts["files"])
        if list(map(_fingerprint, addresses)) == facts["files"]:
            return product
    return None


def identify(
    store: Store, identifier: str, architecture: str | None, part: str | None = None
) -> Product:
    """Return the identity of a checkpoint, digesting its tensors where that was not yet done.

    Raises
    ------
    CheckpointError
        A checkpoint that cannot be found, read, trusted or that names no architecture.
    """
    product = find_identity(store, identifier, architecture, part)
    if product is not None:
        return product
    identity = inspect_checkpoint(identifier, architecture, part)
    source = json.dumps([identity.asked, identity.files])
    recipe = CheckpointRecipe(
        source=hashlib.sha256(source.encode()).hexdigest(), architecture=architecture, part=part
    )

    def make(attempt: Attempt) -> dict[str, Any]:
        document = asdict(identity)
        document["channels"] = document.pop("layer_channels")
        attempt.writer.write(IDENTITY_FILE, json.dumps(document, indent=1).encode())
        return {name: document[name] for name in _FACTS}

    return get_or_make(store, recipe, make)


def read_identity(product: Product) -> Identity:
    """Return the identity that a product holds."""
    try:
        document = json.loads(product.read(IDENTITY_FILE))
        document["layer_channels"] = document.pop("channels")
        for name in ("patch_size", "image_size", "mean", "std", "notes"):
            document[name] = tuple(document.get(name, ()))
        return Identity(**document)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DamagedProductError(
            f"{product.location.url} is no identity of a checkpoint ({error}): run "
            "`soapworks verify --repair`"
        ) from error


def inspect_checkpoint(
    identifier: str, architecture: str | None, part: str | None = None
) -> Identity:
    """Return a checkpoint's identity by reading its tensors; writes nothing.

    Raises
    ------
    CheckpointError
        Whatever is wrong with the checkpoint, weights that do not fit the architecture included.
    """
    from soapworks.backbones import build_backbone, open_checkpoint

    checkpoint = open_checkpoint(identifier, architecture=architecture, part=part)
    files = [[redact(address), *facts] for address, *facts in checkpoint.fingerprint()]
    backbone = build_backbone(checkpoint)
    return Identity(
        **{field.name: getattr(backbone, field.name) for field in fields(BackboneInfo)},
        identifier=redact(identifier),
        asked=redact(_asked(identifier)),
        asked_architecture=architecture,
        files=files,
        digest=checkpoint.digest,
        model_args=checkpoint.model_args,
        part=checkpoint.part,
        asked_part=part,
        notes=backbone.notes,
    )


def report_part(identity: Identity) -> None:
    """Report which part of its file a checkpoint is, and what fitting it to the model took."""
    part = [f"the weights are those under '{identity.part}'"] if identity.part else []
    for note in [*part, *identity.notes]:
        emit(Notice(f"{identity.identifier}: {note}"))


def _asked(identifier: str) -> str:
    if is_url(identifier):
        return identifier.rstrip("/")
    path = Path(identifier).expanduser()
    return str(path.resolve()) if path.exists() else identifier


def _fingerprint(address: str) -> list[Any] | None:
    try:
        facts = facts_of(address)
        return facts and [redact(facts[0]), *facts[1:]]
    except RemoteError:
        return None  # opening the checkpoint reports what is wrong
