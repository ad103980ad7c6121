"""From what a user calls a checkpoint to its architecture, tensors and identity."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soapworks.backbones.architectures import (
    Architecture,
    is_timm_name,
    read_config,
    resolve_architecture,
)
from soapworks.backbones.files.names import (
    CONFIG_NAME,
    INDEX_NAMES,
    WEIGHTS_NAMES,
    check_weights_suffix,
    has_weights_suffix,
)
from soapworks.backbones.files.remote_files import find_remote, fingerprint_of, local_file
from soapworks.backbones.files.shards import check_shard, is_index, read_index
from soapworks.backbones.files.sources import (
    find_file,
    find_folder_files,
    find_on_hub,
    find_pretrained,
    zoo_folder,
)
from soapworks.errors import CheckpointError, InputError
from soapworks.remote import is_url

if TYPE_CHECKING:
    from torch import Tensor

    from soapworks.backbones.files.unwrapping import Unwrapped

Fingerprint = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Checkpoint:
    """Weights, on this machine or behind a URL, and the architecture that they are for.

    Holds addresses only, so it is small and can be sent to other processes; tensors are read when
    they are asked for, from a copy on this machine where they lie behind a URL.
    """

    identifier: str
    """What the user called it."""
    architecture: str
    """timm's name without the tag of its weights."""
    model_args: dict[str, Any]
    """Arguments of the model's constructor beyond those of the name."""
    pretrained_cfg: dict[str, Any]
    """Input size, mean, std, interpolation and crop, as timm calls them; plain JSON types."""
    source: str
    """Path or URL of the weights file."""
    config_source: str | None = None
    """Path or URL of the ``config.json`` that came with it."""
    wanted_part: str | None = None
    """Name of the part of the file with the weights; chosen by the rules when None."""

    def tensors(self) -> "dict[str, Tensor]":
        """Read the backbone's tensors, without wrappers, prefixes and training state.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged, would run code or holds no tensors.
        """
        return self._read().tensors

    @cached_property
    def digest(self) -> str:
        """sha256 of the tensors (names, dtypes, shapes, bytes); reads the file once."""
        from soapworks.backbones.digest import weights_digest

        return weights_digest(self.tensors())

    @property
    def part(self) -> str:
        """Which part of the file is meant, e.g. ``teacher/backbone``; empty for all of it."""
        return self._read().part

    def fingerprint(self) -> Fingerprint:
        """Cheap identity of the files: real path, size, mtime and ctime in ns, inode of each.

        Behind a URL: the URL, the size and what the storage says of the version (ETag, time). While
        it stays the same the digest need not be computed again.
        """
        names = [self.source, *self._shards(), self.config_source]
        real = [n if is_url(n) else str(Path(n).resolve()) for n in names if n is not None]
        return tuple(tuple(fingerprint_of(name)) for name in real)

    def _shards(self) -> dict[str, list[str]]:
        """Paths or URLs of the shards and the names of the tensors in each."""
        if not is_index(self.source):
            return {}
        folder = self.source.removesuffix(Path(self.source).name)
        shards = read_index(local_file(self.source), where=self.source)
        return {f"{folder}{shard}": names for shard, names in shards.items()}

    def _read(self) -> "Unwrapped":
        from soapworks.backbones.files.unwrapping import unwrap

        content = {} if is_index(self.source) else self._read_file(self.source)
        for shard, names in self._shards().items():
            found = self._read_file(shard)
            check_shard(found, names, where=shard)
            content |= found
        return unwrap(content, where=self.source, part=self.wanted_part)

    def _read_file(self, source: str) -> dict[Any, Any]:
        from soapworks.backbones.files.reading import read_weights_file

        path = local_file(source)
        try:
            return dict(read_weights_file(path))
        except CheckpointError as error:
            # People know the address, not the copy.
            raise type(error)(str(error).replace(str(path), source)) from error


def open_checkpoint(
    identifier: str,
    *,
    architecture: str | None = None,
    part: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Checkpoint:
    """Find a checkpoint and say what it is; its tensors are not read yet.

    Parameters
    ----------
    identifier
        One of: a timm name with pretrained weights (``vit_base_patch16_224.mae``); a weights file
        (needs ``architecture``) or a folder in the Hugging Face/timm form, by path or URL
        (``s3://bucket/...``); ``hf-hub:owner/name[@revision]``; ``zoo:NAME``. A timm name goes
        before a folder of the same name; write ``./name`` for the folder.
    architecture
        timm name of the model that a file's weights are for. Its tag, if it has one, chooses
        mean, std and input size (see ``resolve_architecture``).
    part
        Part of the file with the weights (``model_ema``, ``teacher.backbone``), where it holds
        several.
    mean, std
        The statistics that images are normalised with, instead of the configuration's.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be found or fetched, or its architecture is missing or unknown.
    InputError
        If ``mean`` or ``std`` are not three numbers, or ``std`` is not positive.
    """
    found, weights, config = _find(identifier, architecture)
    pretrained_cfg = dict(found.pretrained_cfg)
    if mean is not None:
        pretrained_cfg["mean"] = _three_numbers("mean", mean)
    if std is not None:
        pretrained_cfg["std"] = _three_numbers("std", std)
        if min(pretrained_cfg["std"]) <= 0:
            raise InputError(f"std must be positive, got {tuple(std)}")
    return Checkpoint(
        identifier=identifier,
        architecture=found.name,
        model_args=found.model_args,
        pretrained_cfg=pretrained_cfg,
        source=str(weights),
        config_source=str(config) if config is not None else None,
        wanted_part=part or None,
    )


Found = tuple[Architecture, Path | str, Path | str | None]


def _find(identifier: str, architecture: str | None) -> Found:
    kind, _, rest = identifier.partition(":")
    if kind == "zoo":
        return _in_folder(zoo_folder(rest), architecture)
    if kind == "hf-hub":
        return _on_hub(identifier, rest, architecture)
    if is_url(identifier):
        return _behind_url(identifier, architecture)
    path = Path(identifier).expanduser()
    is_bare = not has_weights_suffix(path) and path.name == identifier
    if is_bare and is_timm_name(identifier):
        return _pretrained(identifier, architecture), *_pretrained_file(identifier)
    if path.is_dir():
        return _in_folder(path, architecture)
    if path.exists() or has_weights_suffix(path):
        return _file(find_file(path), architecture)
    raise CheckpointError(_unknown(identifier, is_bare))


def _pretrained(name: str, architecture: str | None) -> Architecture:
    found = resolve_architecture(name)
    if architecture is not None and resolve_architecture(architecture).name != found.name:
        raise CheckpointError(
            f"{name} is a timm name and brings its own architecture: leave {architecture!r} out"
        )
    return found


def _pretrained_file(name: str) -> tuple[Path, None]:
    return find_pretrained(resolve_architecture(name).pretrained_cfg, name=name), None


def _file(path: Path, architecture: str | None) -> tuple[Architecture, Path, None]:
    check_weights_suffix(path)
    if architecture is None:
        raise CheckpointError(_nameless(path))
    return resolve_architecture(architecture), path, None


def _behind_url(url: str, architecture: str | None) -> Found:
    weights, config = find_remote(url)
    if architecture is not None:
        return resolve_architecture(architecture), weights, None
    if weights == url.rstrip("/"):
        raise CheckpointError(_nameless(url))
    if config is None:
        raise CheckpointError(_without_config(url))
    return read_config(local_file(config)), weights, config


def _nameless(weights: object) -> str:
    return (
        f"{weights} holds weights only: pass the timm model that they are for, e.g. "
        "--architecture vit_base_patch16_224"
    )


def _without_config(folder: object) -> str:
    return (
        f"{folder} has no {CONFIG_NAME} that names the architecture: add one in timm's form, "
        "or pass --architecture"
    )


def _in_folder(folder: Path, architecture: str | None) -> tuple[Architecture, Path, Path | None]:
    weights, config = find_folder_files(folder)
    if architecture is not None:
        return resolve_architecture(architecture), weights, None
    if config is None:
        raise CheckpointError(_without_config(folder))
    return read_config(config), weights, config


def _on_hub(
    identifier: str, repository: str, architecture: str | None
) -> tuple[Architecture, Path, Path | None]:
    if architecture is not None:
        found, config = resolve_architecture(architecture), None
    else:
        config = find_on_hub(repository, [CONFIG_NAME], name=identifier)
        found = read_config(config)
    weights = find_on_hub(repository, [*WEIGHTS_NAMES, *INDEX_NAMES], name=identifier)
    if is_index(str(weights)):
        for shard in read_index(weights, where=identifier):
            find_on_hub(repository, [shard], name=identifier)
    return found, weights, config


def _unknown(identifier: str, is_bare: bool) -> str:
    if is_bare:
        try:
            resolve_architecture(identifier)
        except CheckpointError as error:
            return f"there is no file, folder or timm model {identifier!r}: {error}"
    return (
        f"there is no file or folder {identifier!r}: for a repository on the Hugging Face hub "
        f"write hf-hub:{identifier}; code from torch.hub is never run"
    )


def _three_numbers(name: str, values: Sequence[float]) -> list[float]:
    if len(values) != 3:
        raise InputError(f"{name} must be three numbers (red, green, blue), got {tuple(values)}")
    return [float(value) for value in values]
