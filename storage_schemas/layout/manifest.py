"""The manifest of a set of images, and how a set that changes keeps its segments.

A set is cut in *segments*: runs of at most ``segment_images`` images that one scan added, in path
order. A segment is named by the digest of its images' digests, and everything that costs a
forward pass is keyed by segments. So:

* appended images form new segments; the old ones stay as they are;
* a renamed or moved image changes nothing (contents count, names do not);
* a segment of which an image was removed or changed is given up: what is left of it is cut
  into new segments together with what is new. At most ``segment_images`` images pay for it.
"""

import hashlib
import io
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from soapworks.errors import DamagedProductError
from soapworks.storage_schemas.layout.recipes import ImagesRecipe
from soapworks.storage_schemas.layout.tables import read_table

IMAGES_TABLE = "images.parquet"
UNREADABLE_TABLE = "unreadable.parquet"


@dataclass(frozen=True, order=True)
class ImageEntry:
    """One file that looks like an image."""

    path: str
    """Path relative to the set's folder, with forward slashes."""
    n_bytes: int
    """Size of the file, bytes."""
    fingerprint: str
    """Cheap identity of the file (size, dates, inode or ETag): equal means not read again."""
    digest: str
    """sha256 of the file's bytes."""
    width: int = 0
    """Width as stored, pixels; 0 where unreadable."""
    height: int = 0
    """Height as stored, pixels; 0 where unreadable."""
    reason: str = ""
    """Why the file cannot be read; empty where it can."""


@dataclass(frozen=True)
class Manifest:
    """The segments of a set of images and the files that had to be left out."""

    segments: tuple[tuple[ImageEntry, ...], ...]
    unreadable: tuple[ImageEntry, ...] = ()
    recipe: ImagesRecipe = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Derive the recipe."""
        recipe = ImagesRecipe(
            segments=tuple(segment_digest(segment) for segment in self.segments),
            n_images=sum(map(len, self.segments)),
            unreadable=tuple(sorted(entry.digest for entry in self.unreadable)),
        )
        object.__setattr__(self, "recipe", recipe)

    @property
    def n_images(self) -> int:
        """Number of readable images."""
        return self.recipe.n_images

    def entries(self) -> Iterable[ImageEntry]:
        """Yield every file seen, readable or not."""
        for segment in self.segments:
            yield from segment
        yield from self.unreadable

    def to_files(self) -> dict[str, bytes]:
        """Return the manifest as the files of its product."""
        rows = [
            {"segment": number, **vars(entry)}
            for number, segment in enumerate(self.segments)
            for entry in segment
        ]
        return {
            IMAGES_TABLE: _to_parquet(rows, ["segment", *ImageEntry.__dataclass_fields__]),
            UNREADABLE_TABLE: _to_parquet(
                [vars(entry) for entry in self.unreadable], [*ImageEntry.__dataclass_fields__]
            ),
        }

    @classmethod
    def from_files(
        cls,
        images: bytes,
        unreadable: bytes,
        *,
        n_images: int | None = None,
        n_unreadable: int | None = None,
    ) -> "Manifest":
        """Read a manifest back from the files of its product.

        Parameters
        ----------
        images, unreadable
            Bytes of the two tables.
        n_images, n_unreadable
            Rows that they must have, where they are known.

        Raises
        ------
        DamagedProductError
            Where the bytes are no such tables.
        """
        try:
            columns = list(ImageEntry.__dataclass_fields__)
            table = read_table(images, "a manifest of images", ["segment", *columns], n_images)
            left_out = read_table(unreadable, "a manifest of images", columns, n_unreadable)
            segments: dict[int, list[ImageEntry]] = defaultdict(list)
            for row in table.to_dict("records"):
                segments[row.pop("segment")].append(ImageEntry(**{str(k): row[k] for k in row}))
            entries = [
                ImageEntry(**{str(k): row[k] for k in row}) for row in left_out.to_dict("records")
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedProductError.of("a manifest of images", str(error)) from error
        return cls(tuple(tuple(segments[n]) for n in sorted(segments)), tuple(entries))


def segment_digest(segment: Sequence[ImageEntry]) -> str:
    """Return the digest that names a segment: sha256 over its images' digests, in order."""
    return hashlib.sha256("\n".join(entry.digest for entry in segment).encode("ascii")).hexdigest()


def reusable_segments(previous: Manifest, digests: Counter[str]) -> list[int]:
    """Return the numbers of the segments all of whose images are still there.

    Parameters
    ----------
    previous
        An earlier manifest.
    digests
        How often each content digest occurs among the readable images of now.
    """
    left = Counter(digests)
    kept = []
    for number, segment in enumerate(previous.segments):
        needed = Counter(entry.digest for entry in segment)
        if all(left[digest] >= n for digest, n in needed.items()):
            left -= needed
            kept.append(number)
    return kept


def cut_segments(
    entries: Iterable[ImageEntry], previous: Manifest | None, *, segment_images: int
) -> Manifest:
    """Return the manifest of the files of now, which keeps an earlier one's whole segments.

    Parameters
    ----------
    entries
        Every file that looks like an image, readable or not.
    previous
        The manifest to continue; None begins a new one.
    segment_images
        Largest number of images in a segment.
    """
    ordered = sorted(entries)
    readable = [entry for entry in ordered if not entry.reason]
    kept = reusable_segments(previous, Counter(e.digest for e in readable)) if previous else []
    by_digest: dict[str, deque[ImageEntry]] = defaultdict(deque)
    for entry in readable:
        by_digest[entry.digest].append(entry)
    segments = [
        tuple(by_digest[old.digest].popleft() for old in previous.segments[number])
        for number in kept
        if previous is not None
    ]
    new = sorted(entry for waiting in by_digest.values() for entry in waiting)
    segments += [
        tuple(new[start : start + segment_images]) for start in range(0, len(new), segment_images)
    ]
    return Manifest(tuple(segments), tuple(entry for entry in ordered if entry.reason))


def _to_parquet(rows: list[dict[str, object]], columns: list[str]) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(rows, columns=pd.Index(columns)).to_parquet(buffer, index=False)
    return buffer.getvalue()
