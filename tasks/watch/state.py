"""Remember the state of checkpoints under watch: a small JSON file each, in the store.

A file is written whole, under the lease on its folder, and checked when it is read. An invalid one
counts as missing: scoring anew what is scored costs no forward pass.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from pydantic import ValidationError

from soapworks.errors import DamagedProductError, MissingProductError, StoreError
from soapworks.images.listing import open_folder
from soapworks.names import redact
from soapworks.storage_schemas.layout.names import decode, encode, slug
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.executors.threads import compute_each
from soapworks.tasks.settings import RunOptions, ScoreSettings, WatchOptions
from soapworks.tasks.watch.rules import CheckpointState

FOLDER = "watch"
"""Folder of a store in which all this lies."""

FORMAT = 1

STATE = "state.json"
ABOUT = "watch.json"
CHECKPOINTS = "checkpoints"

_LIMIT = 4 << 20
_READERS = 16


@dataclass(frozen=True)
class Watch:
    """A folder under watch, and how its checkpoints are scored."""

    folder: Location
    images: str
    """Folder of images, as a path or URL."""
    architecture: str | None
    """timm's name of the architecture, where the checkpoints do not name it."""
    settings: ScoreSettings
    options: RunOptions
    watching: WatchOptions

    @classmethod
    def of(
        cls,
        folder: str,
        images: str,
        architecture: str | None = None,
        settings: ScoreSettings | None = None,
        options: RunOptions | None = None,
        watching: WatchOptions | None = None,
    ) -> "Watch":
        """Return the watch of a folder, from paths or URLs as given.

        Raises
        ------
        InputError
            An invalid address, or one with a password.
        """
        return cls(
            Location.parse(folder),
            open_folder(images).url,
            architecture,
            settings or ScoreSettings(),
            options or RunOptions(),
            watching or WatchOptions(),
        )

    @cached_property
    def store(self) -> Store:
        """The store of its products."""
        return Store(self.options.store, lease_seconds=self.options.lease_seconds)

    @cached_property
    def place(self) -> Location:
        """Its folder in the store: another for other images or settings."""
        asked = json.dumps(self._asked(), sort_keys=True)
        return self.store.location / FOLDER / _address(self.folder.url, asked)

    def checkpoint(self, path: str) -> str:
        """Return the identifier under which a checkpoint in the folder is scored."""
        return f"{self.folder.url}/{path}"

    def address(self, path: str) -> Location:
        """Return the folder of a checkpoint's state and lease."""
        return self.place / CHECKPOINTS / _address(path, path)

    def read(self, path: str) -> CheckpointState | None:
        """Return the state of a checkpoint; None where there is none.

        Raises
        ------
        StoreError
            If the store fails, or a later version of soapworks wrote the file.
        """
        return _read(self.address(path), path)

    def read_all(self) -> dict[str, CheckpointState]:
        """Return the states of all checkpoints ever seen, by path."""
        folder = self.place / CHECKPOINTS
        addresses = [folder / name for name in folder.names()]
        states = compute_each(_read, addresses, workers=_READERS)
        return {state.path: state for state in states if state is not None}

    def write(self, state: CheckpointState) -> None:
        """Write a state; the caller holds the lease on the checkpoint."""
        about = self.place / ABOUT
        if about.size() is None:
            asked = {k: redact(v) if isinstance(v, str) else v for k, v in self._asked().items()}
            about.create(encode({"format": FORMAT, **asked}))
        document = {"format": FORMAT, **state.model_dump(mode="json")}
        (self.address(state.path) / STATE).write_bytes(encode(document))

    def _asked(self) -> dict[str, object]:
        # Only what was set: an option that is added later leaves the address as it is.
        settings = self.settings.model_dump(mode="json", exclude_defaults=True)
        return {
            "folder": self.folder.url,
            "images": self.images,
            "architecture": self.architecture,
            "settings": settings,
        }


def _address(name: str, identity: str) -> str:
    words = slug(name)[-80:].strip("-") or "folder"
    return f"{words}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _read(address: Location, path: str | None = None) -> CheckpointState | None:
    file = address / STATE
    try:
        document = decode(file.read_bytes(limit=_LIMIT), file)
        if document.pop("format", None) != FORMAT:
            raise StoreError(
                f"{file} has a format that this version of soapworks does not know: watch with "
                "the version that wrote it, or a later one"
            )
        state = CheckpointState.model_validate(document)
        found = state.path
        if address.name != _address(found, found) or found != (path or found):
            raise DamagedProductError(f"{file} is about another checkpoint ({found[:200]})")
    except MissingProductError:
        return None
    except (DamagedProductError, ValidationError) as error:
        why = str(error) if isinstance(error, DamagedProductError) else f"{file} is damaged"
        emit(Notice(f"{why.rstrip('.')}: its checkpoint starts afresh"))
        return None
    return state
