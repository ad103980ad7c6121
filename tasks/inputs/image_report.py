"""Report what indexing a folder of images left out, and what looks wrong of the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from soapworks.errors import InputError
from soapworks.images.findings import Findings
from soapworks.images.reading import ImageFacts
from soapworks.names import printable
from soapworks.storage_schemas.layout.manifest import ImageEntry
from soapworks.tasks.events import Notice, emit

SHOWN = 5
"""Files that a message names."""

DARK = 16 / 255
"""Share of white that 12-bit samples in a 16-bit file do not exceed."""


def check_readable(
    url: str, found: Findings, entries: Sequence[ImageEntry], *, limit: float
) -> None:
    """Report which files are left out, or refuse a folder of too many.

    Parameters
    ----------
    url
        The folder.
    found
        All that is in it.
    entries
        The files that were drawn of it, readable or not.
    limit
        Largest share of unreadable images, 0 to 1.

    Raises
    ------
    InputError
        No image can be read, or the share of those that cannot is above the limit.
    """
    if others := found.describe_others():
        emit(Notice(f"{url} also holds {others}, not read as images"))
    bad = [entry for entry in entries if entry.reason]
    left_out = [*((e.path, e.reason) for e in bad), *((e.path, e.reason) for e in found.refused)]
    reasons = [f"{printable(path)}: {reason}" for path, reason in left_out]
    if not reasons:
        return
    n_refused, n_images = len(found.refused), len(entries) + len(found.refused)
    shown = "; ".join(reasons[:SHOWN])
    shown += f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    if len(bad) == len(entries):
        raise InputError(f"none of the {n_images} images in {url} can be read: {shown}")
    # A sample says how many of the files cannot be read; what is refused is known of all.
    n_files = len(found.files)
    share = (n_refused + len(bad) * n_files / len(entries)) / (n_refused + n_files)
    if share > limit:
        raise InputError(
            f"{len(reasons)} of {n_images} images in {url} cannot be read ({share:.1%} of the "
            f"folder, limit {limit:.1%}): {shown}; fix or remove them, or raise --max-unreadable"
        )
    emit(Notice(f"left out {len(reasons)} of {n_images} images in {url}: {shown}"))


@dataclass
class Remarks:
    """Images that are read, but perhaps not as their owner thinks."""

    n_read: int = 0
    dark: list[str] = field(default_factory=list)
    """Paths of images whose wide samples stay below a sixteenth of white."""
    brightest: float = 0.0
    """Largest sample among those, as a share of white."""
    paged: list[str] = field(default_factory=list)
    """Paths of files with further pages."""

    def note(self, path: str, facts: ImageFacts | None) -> None:
        """Note what was seen of a file, None where it cannot be read."""
        if facts is None:
            return
        self.n_read += 1
        if facts.brightest is not None and facts.brightest <= DARK:
            self.dark.append(path)
            self.brightest = max(self.brightest, facts.brightest)
        if facts.has_pages:
            self.paged.append(path)

    def sentences(self, url: str) -> list[str]:
        """Return a sentence per kind of remark about the folder at `url`."""
        found = []
        if self.dark:
            found.append(
                f"{len(self.dark)} of {self.n_read} images read in {url} are nearly black: their "
                f"samples of more than 8 bits reach {self.brightest:.1%} of white at most (first: "
                f"{printable(self.dark[0])}); scale them to their full range (12-bit samples in a "
                "16-bit file: times 16)"
            )
        if self.paged:
            found.append(
                f"{len(self.paged)} of {self.n_read} images read in {url} have several pages, of "
                f"which the first counts (first: {printable(self.paged[0])})"
            )
        return found
