"""Identify a checkpoint: digest its tensors, once, and remember what its architecture is like."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soapworks.backbones.layers import resolve_layers
from soapworks.errors import DamagedProductError, InputError
from soapworks.remote import RemoteError, facts_of, is_url
from soapworks.storage_schemas.layout.recipes import CheckpointRecipe
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.get_or_make import get_or_make

IDENTITY_FILE = "identity.json"


@dataclass(frozen=True)
class Identity:
    """What is known of a checkpoint without reading its tensors again."""

    identifier: str
    """What the user called it."""
    asked: str
    """The identifier, as an absolute path where it is one."""
    asked_architecture: str | None
    """The architecture that the user named."""
    files: list[list[Any]]
    """Real path, size, mtime and ctime in ns, and inode of each of its files."""
    digest: str
    """Digest of the tensors."""
    architecture: str
    """timm's name, without the tag of the weights."""
    model_args: dict[str, Any]
    """Arguments beyond the architecture's name."""
    pretrained_cfg: dict[str, Any]
    """timm's evaluation settings: interpolation, crop and so on."""
    patch_size: list[int]
    """Height and width of a patch, pixels."""
    image_size: list[int]
    """Height and width of the model's own input, pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    n_prefix_tokens: int
    n_parameters: int
    channels: dict[str, int]
    """Number of channels of every known layer, in forward order."""

    def layers(self, wanted: str) -> tuple[str, ...]:
        """Return the layers meant by ``all`` or a comma-separated list, in forward order.

        Raises
        ------
        LayerError
            An unknown layer; the message lists the known ones.
        """
        return resolve_layers(wanted, self.channels)

    def input_size(self, side: int | None) -> int:
        """Return the side of the square input, pixels: the one asked for or the model's own.

        Raises
        ------
        InputError
            Not a multiple of the patch size, or the model's own input is not square.
        """
        if side is None:
            height, width = self.image_size
            if height != width:
                raise InputError(
                    f"{self.identifier} has an input of {height} x {width} pixels and images are "
                    "scored square: give --image-size."
                )
            return height
        for patch in self.patch_size:
            if side % patch:
                near = sorted({max(patch, side // patch * patch), (side // patch + 1) * patch})
                raise InputError(
                    f"an image size of {side} pixels is no multiple of the {patch} pixel patches "
                    f"of {self.architecture}: choose {' or '.join(map(str, near))}."
                )
        return side

    def grid(self, side: int) -> tuple[int, int]:
        """Return rows and columns of patches at a side, pixels."""
        return side // self.patch_size[0], side // self.patch_size[1]


def find_identity(store: Store, identifier: str, architecture: str | None) -> Product | None:
    """Return what the store knows of a checkpoint whose files have not changed since."""
    asked = _asked(identifier)
    for product in store.products("checkpoints"):
        facts = product.record["facts"]
        if (facts.get("asked"), facts.get("asked_architecture")) != (asked, architecture):
            continue
        if all(_file_identity(file[0]) == file for file in facts["files"]):
            return product
    return None


def identify(store: Store, identifier: str, architecture: str | None) -> Product:
    """Return the identity of a checkpoint, digesting its tensors where that was not yet done.

    Raises
    ------
    CheckpointError
        A checkpoint that cannot be found, read, trusted or that names no architecture.
    """
    product = find_identity(store, identifier, architecture)
    if product is not None:
        return product
    identity = inspect_checkpoint(identifier, architecture)
    source = json.dumps([identity.asked, identity.files])
    recipe = CheckpointRecipe(
        source=hashlib.sha256(source.encode()).hexdigest(), architecture=architecture
    )

    def make(attempt: Attempt) -> dict[str, Any]:
        attempt.writer.write(IDENTITY_FILE, json.dumps(asdict(identity), indent=1).encode())
        return {
            name: getattr(identity, name)
            for name in (
                "identifier",
                "asked",
                "asked_architecture",
                "files",
                "digest",
                "architecture",
            )
        }

    return get_or_make(store, recipe, make)


def read_identity(product: Product) -> Identity:
    """Return the identity that a product holds."""
    try:
        return Identity(**json.loads(product.read(IDENTITY_FILE)))
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedProductError(
            f"{product.location.url} is no identity of a checkpoint ({error}): run "
            "`soapworks verify --repair`."
        ) from error


def inspect_checkpoint(identifier: str, architecture: str | None) -> Identity:
    """Return a checkpoint's identity by reading its tensors; writes nothing.

    Raises
    ------
    CheckpointError
        Whatever is wrong with the checkpoint, weights that do not fit the architecture included.
    """
    from soapworks.backbones import build_backbone, open_checkpoint

    checkpoint = open_checkpoint(identifier, architecture=architecture)
    files = [list(one) for one in checkpoint.fingerprint()]
    info = build_backbone(checkpoint)
    return Identity(
        identifier=identifier,
        asked=_asked(identifier),
        asked_architecture=architecture,
        files=files,
        digest=checkpoint.digest,
        architecture=checkpoint.architecture,
        model_args=checkpoint.model_args,
        pretrained_cfg=dict(checkpoint.pretrained_cfg),
        patch_size=list(info.patch_size),
        image_size=list(info.image_size),
        mean=info.mean,
        std=info.std,
        n_prefix_tokens=info.n_prefix_tokens,
        n_parameters=info.n_parameters,
        channels=dict(info.layer_channels),
    )


def _asked(identifier: str) -> str:
    if is_url(identifier):
        return identifier.rstrip("/")
    path = Path(identifier).expanduser()
    return str(path.resolve()) if path.exists() else identifier


def _file_identity(path: str) -> list[Any] | None:
    if is_url(path):
        try:
            return facts_of(path)
        except RemoteError:
            return None  # opening the checkpoint tells what is wrong
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return [path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
