"""Parts: what of an attempt is finished, and taking it over from attempts that were abandoned.

::

    attempt-<12 hex>/parts/<part>.json
        {"format": 1, "part", "files": {path relative to the attempt: {"bytes", "sha256"}}}

A part's note is written after its files, so a part whose note agrees with its files is whole,
whenever its writer was killed.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from soapworks.errors import DamagedProductError, InputError, MissingProductError
from soapworks.storage_schemas.layout.names import MAX_DOCUMENT_BYTES, PARTIAL, decode
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.digests import FileDigest, below, digest_of
from soapworks.storage_schemas.publishing.records import ATTEMPT_NAME, FORMAT, PARTS, WORK, files_of


def take_over_parts(attempt: Location) -> None:
    """Take over every finished part of earlier attempts that is whole, and nothing else.

    Files become hard links (copies where there are none): whoever still writes into an earlier
    attempt renames new files into place and does not change the ones taken over.

    Parameters
    ----------
    attempt
        Folder of the new attempt; earlier ones lie beside it.
    """
    for name in attempt.parent.names():
        if ATTEMPT_NAME.fullmatch(name) and name != attempt.name:
            earlier = attempt.parent / name
            sizes = earlier.sizes()
            parts = [path for path in sizes if path.startswith(f"{PARTS}/")]
            with ThreadPoolExecutor(_readers(attempt)) as readers:
                # The first that fails keeps the others from being begun.
                for _ in readers.map(partial(_take_over, attempt, earlier, sizes), parts):
                    pass


def _take_over(attempt: Location, earlier: Location, sizes: dict[str, int], note: str) -> None:
    if (attempt / note).size() is not None:
        return
    try:
        data = (earlier / note).read_bytes(limit=MAX_DOCUMENT_BYTES)
        files = read_part(data, earlier / note)
        if any(sizes.get(path) != file.bytes for path, file in files.items()):
            return
        if any(FileDigest(*(earlier / path).digest()) != file for path, file in files.items()):
            return
        for path in files:
            # Arrays are made anew, around the chunks that are there already.
            if path.rpartition("/")[2] != "zarr.json":
                (attempt / path).copy_from(earlier / path)
        (attempt / note).write_bytes(data, durable=False)
    except (DamagedProductError, MissingProductError, InputError):
        return  # torn, changed or being deleted: it is made again


@dataclass(frozen=True)
class Part:
    """The note of a finished part.

    Attributes
    ----------
    note
        Digest of the note itself.
    files
        Path relative to the attempt -> digest of the part's files.
    """

    note: FileDigest
    files: dict[str, FileDigest]

    @property
    def is_work(self) -> bool:
        """Whether it holds what only the making needs, and no part of the product."""
        return bool(self.files) and all(below(path, WORK) for path in self.files)


def read_parts(attempt: Location, files: Iterable[str] | None = None) -> dict[str, Part]:
    """Return path of the note -> part, for all finished parts of an attempt.

    Parameters
    ----------
    files
        All files of the attempt, where they have been listed already.

    Raises
    ------
    DamagedProductError
        If a note cannot be understood.
    """
    folder = attempt / PARTS
    if files is None:
        names = folder.names()
    else:
        names = sorted(path.removeprefix(f"{PARTS}/") for path in files if below(path, PARTS))
    names = [name for name in names if not name.endswith(PARTIAL)]
    with ThreadPoolExecutor(_readers(attempt)) as readers:
        notes = readers.map(
            lambda name: (folder / name).read_bytes(limit=MAX_DOCUMENT_BYTES), names
        )
        return {
            f"{PARTS}/{name}": Part(digest_of(data), read_part(data, folder / name))
            for name, data in zip(names, notes, strict=True)
        }


def read_part(data: bytes, where: Location) -> dict[str, FileDigest]:
    """Return the files of a part's note.

    Raises
    ------
    DamagedProductError
        If it is not one.
    """
    note = decode(data, where)
    if note.get("format") != FORMAT or note.get("part") != where.name.removesuffix(".json"):
        raise DamagedProductError(f"{where} is not the note of that part")
    try:
        return files_of(note)
    except InputError as error:
        raise DamagedProductError(f"{where} is refused: {error}") from error


def _readers(location: Location) -> int:
    # From a bucket one waits for answers, from a disk for the digests.
    return 16 if location.local_path is None else 4
