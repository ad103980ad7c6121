"""Index a folder of images: read new files, digest and check them, cut the set in segments."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from soapworks.errors import ImageError, InputError
from soapworks.images.findings import Findings, ImageFile
from soapworks.images.listing import MAX_FILE_BYTES, ImageFolder, open_folder, sample_images
from soapworks.images.reading import ImageFacts, check_image, may_read_now
from soapworks.names import redact
from soapworks.storage_schemas.layout.manifest import (
    IMAGES_TABLE,
    UNREADABLE_TABLE,
    ImageEntry,
    Manifest,
    cut_segments,
)
from soapworks.storage_schemas.store import Attempt, Product, Store
from soapworks.tasks.events import Notice, emit, stage
from soapworks.tasks.get_or_make import get_or_make
from soapworks.tasks.inputs.image_report import Remarks, check_readable
from soapworks.tasks.settings import ScoreSettings

FILES_AT_ONCE = 16
"""Files per thread that are read ahead; bounds the work thrown away when a run is stopped."""

CANDIDATES = 8
"""Earlier manifests looked into for segments to continue."""


def scan_images(store: Store, images: str, settings: ScoreSettings, *, workers: int) -> Manifest:
    """Return the manifest of a folder as it is now; writes nothing.

    Files known from an earlier manifest of the same folder, by path, size and dates, are not read
    again. Every other file is read and decoded once. Files that cannot be opened are tried again
    every time: the next reader may have the right to.

    Whatever is left out (`soapworks.images.findings`) is in the manifest with its reason, counts as
    unreadable, and is reported as a `Notice`, as are files that are no images.

    Parameters
    ----------
    store
        Searched for earlier manifests, whose segments are kept where they are whole.
    images
        The folder, as a path or URL.
    settings
        Sampling, the limit for the share of unreadable images, and the size of segments.
    workers
        Threads that read.

    Raises
    ------
    InputError
        No images, or a share of unreadable ones above the limit.
    """
    scan = _Scan.of(store, images, settings)
    entries = list(scan.known)
    if scan.new:
        remarks = Remarks()
        with stage("index", scan.folder.url, len(scan.new), "files") as advance:
            for entry, facts in _inspect(scan.folder, scan.new, workers=workers):
                entries.append(entry)
                remarks.note(entry.path, facts)
                advance(1)
        for sentence in remarks.sentences(scan.folder.url):
            emit(Notice(sentence))
    return scan.manifest(entries, settings)


def known_images(store: Store, images: str, settings: ScoreSettings) -> Manifest | None:
    """Return the manifest of a folder if every file in it is known already, else None.

    Files that could not be opened before are tried again, and may stay as they are.
    """
    scan = _Scan.of(store, images, settings)
    if any(file.path not in scan.unopened for file in scan.new):
        return None
    retried = [inspect_file(scan.folder, file)[0] for file in scan.new]
    return scan.manifest([*scan.known, *retried], settings)


@dataclass(frozen=True)
class _Scan:
    """The present files of a folder, split by whether the store knows them."""

    folder: ImageFolder
    found: Findings
    known: tuple[ImageEntry, ...]
    """Files that an earlier manifest of the folder holds."""
    new: tuple[ImageFile, ...]
    unopened: frozenset[str]
    """Paths of files that the last manifest of the folder holds as impossible to open."""
    earlier: tuple[Manifest, ...]

    @classmethod
    def of(cls, store: Store, images: str, settings: ScoreSettings) -> "_Scan":
        folder = open_folder(images)
        found = folder.survey()
        files = sample_images(found.files, settings.max_images, settings.image_seed)
        earlier = _earlier_manifests(store, folder.url)
        remembered: dict[tuple[str, str], ImageEntry] = {}
        unopened: frozenset[str] = frozenset()
        for same_folder, manifest in reversed(earlier):  # the newest last
            if same_folder:
                remembered |= {
                    (entry.path, entry.fingerprint): entry
                    for entry in manifest.entries()
                    if not may_read_now(entry.reason)
                }
                unopened = frozenset(e.path for e in manifest.unreadable if not e.fingerprint)
        known = [remembered[k] for f in files if (k := (f.path, f.fingerprint)) in remembered]
        new = [f for f in files if (f.path, f.fingerprint) not in remembered]
        manifests = tuple(manifest for _, manifest in earlier)
        return cls(folder, found, tuple(known), tuple(new), unopened, manifests)

    def manifest(self, entries: Sequence[ImageEntry], settings: ScoreSettings) -> Manifest:
        check_readable(self.folder.url, self.found, entries, limit=settings.max_unreadable)
        entries = [*entries, *(_not_read(e.path, e.reason) for e in self.found.refused)]
        continuations = [
            cut_segments(entries, previous, segment_images=settings.segment_images)
            for previous in (*self.earlier, None)
        ]
        return max(continuations, key=lambda manifest: _n_kept(manifest, self.earlier))


def publish_manifest(store: Store, images: str, manifest: Manifest) -> Product:
    """Put a manifest into the store and return its product."""

    def make(attempt: Attempt) -> dict[str, Any]:
        for name, data in manifest.to_files().items():
            attempt.writer.write(name, data)
        return {
            "folder": redact(open_folder(images).url),
            "n_images": manifest.n_images,
            "n_segments": len(manifest.segments),
            "n_unreadable": len(manifest.unreadable),
        }

    return get_or_make(store, manifest.recipe, make)


def read_manifest(product: Product) -> Manifest:
    """Return the manifest that a product holds."""
    return Manifest.from_files(
        product.read(IMAGES_TABLE),
        product.read(UNREADABLE_TABLE),
        n_images=product.facts.get("n_images"),
        n_unreadable=product.facts.get("n_unreadable"),
    )


def inspect_file(folder: ImageFolder, file: ImageFile) -> tuple[ImageEntry, ImageFacts | None]:
    """Read one file; return its entry and, where it is readable, what was seen of it."""
    try:
        if file.size > MAX_FILE_BYTES:
            raise ImageError(f"file is longer than the limit of {MAX_FILE_BYTES} bytes")
        data = folder.read(file.path)
    except (ImageError, InputError) as error:
        return _not_read(file.path, str(error)), None
    digest = hashlib.sha256(data).hexdigest()
    try:
        facts = check_image(data)
    except ImageError as error:
        return ImageEntry(file.path, file.size, file.fingerprint, digest, reason=str(error)), None
    return ImageEntry(file.path, file.size, file.fingerprint, digest, *facts.size), facts


def _not_read(path: str, reason: str) -> ImageEntry:
    """Return the entry of a file whose bytes are unknown; its digest is one of path and reason."""
    digest = hashlib.sha256(f"{reason}\n{path}".encode()).hexdigest()
    return ImageEntry(path, 0, "", digest, reason=reason)


def _inspect(
    folder: ImageFolder, files: Sequence[ImageFile], *, workers: int
) -> Iterator[tuple[ImageEntry, ImageFacts | None]]:
    step = FILES_AT_ONCE * workers
    with ThreadPoolExecutor(workers, "index") as pool:
        for start in range(0, len(files), step):
            yield from pool.map(partial(inspect_file, folder), files[start : start + step])


def _earlier_manifests(store: Store, url: str) -> list[tuple[bool, Manifest]]:
    """Return (is of the same folder, manifest), same folder and newest first."""
    url = redact(url)
    products = sorted(
        store.products("images"),
        key=lambda p: (p.record["facts"].get("folder") == url, p.record["created"]),
        reverse=True,
    )
    return [
        (product.record["facts"].get("folder") == url, read_manifest(product))
        for product in products[:CANDIDATES]
    ]


def _n_kept(manifest: Manifest, earlier: Sequence[Manifest]) -> tuple[int, int]:
    """Return how many images lie in segments that an earlier manifest has, and minus segments."""
    known = {digest for m in earlier for digest in m.recipe.segments}
    kept = sum(
        len(segment)
        for segment, digest in zip(manifest.segments, manifest.recipe.segments, strict=True)
        if digest in known
    )
    return kept, -len(manifest.segments)
