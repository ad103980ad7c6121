"""Layouts of labelled folders: which sub-folders hold images, and which their labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from soapworks.errors import InputError
from soapworks.images.findings import ImageFile
from soapworks.names import printable

Kind = Literal["masks", "label maps"]


@dataclass(frozen=True)
class Layout:
    """Names of the sub-folders of one data set; they may stand at any depth of the folder."""

    name: str
    kind: Kind
    images: tuple[str, ...]
    """Consecutive folder names in front of an image's own path."""
    labels: tuple[str, ...]
    """The same of its mask or label map."""
    cut: int | None = None
    """Mask values above this are the object; None: a mask has two values."""
    ignore: tuple[int, ...] = ()
    """Labels that do not count."""
    known: tuple[int, int] | None = None
    """Smallest and largest label that a label map may hold beside the ignored ones."""

    def split(
        self, files: Iterable[ImageFile]
    ) -> tuple[dict[str, ImageFile], dict[str, ImageFile]]:
        """Return the images and the labels below this layout's folders, by path without suffix.

        Parameters
        ----------
        files
            Files of the folder.

        Raises
        ------
        InputError
            Where two files of a folder differ by their suffix alone.
        """
        found: tuple[dict[str, ImageFile], dict[str, ImageFile]] = ({}, {})
        for file in files:
            for parts, into in zip((self.images, self.labels), found, strict=True):
                stem = _below(file.path, parts)
                if stem is None:
                    continue
                if stem in into:
                    raise InputError(
                        f"{printable(into[stem].path)} and {printable(file.path)} differ by their "
                        "suffix alone, so their partner is ambiguous; remove one of them"
                    )
                into[stem] = file
        return found

    def describe(self) -> str:
        """Return the two folders in words."""
        return f"{'/'.join(self.images)} and {'/'.join(self.labels)}"


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("ecssd", "masks", ("images",), ("ground_truth_mask",), cut=127),
        Layout("duts-te", "masks", ("DUTS-TE-Image",), ("DUTS-TE-Mask",), cut=127),
        Layout("duts-tr", "masks", ("DUTS-TR-Image",), ("DUTS-TR-Mask",), cut=127),
        Layout("dut-omron", "masks", ("DUT-OMRON-image",), ("pixelwiseGT-new-PNG",), cut=127),
        Layout("masks", "masks", ("images",), ("masks",)),
        Layout(
            *("ade20k-training", "label maps"),
            *(("images", "training"), ("annotations", "training")),
            ignore=(0,),
            known=(1, 150),
        ),
        Layout(
            *("ade20k-validation", "label maps"),
            *(("images", "validation"), ("annotations", "validation")),
            ignore=(0,),
            known=(1, 150),
        ),
        Layout("labels", "label maps", ("images",), ("labels",), ignore=(255,)),
    )
}
"""Name -> layout. The masks of ECSSD, DUTS and DUT-OMRON are grey at their edges in part and are
cut at half of white, as their benchmarks do. ADE20k's label 0 is "other" and does not count; its
labels keep their numbers, 1 to 150, where others shift them to 0 to 149: measures are the same."""


def choose_layout(
    files: Sequence[ImageFile], kind: Kind, name: str | None, where: str
) -> tuple[Layout, dict[str, ImageFile], dict[str, ImageFile]]:
    """Return the layout of a folder with its images and labels.

    Parameters
    ----------
    files
        Files of the folder.
    kind
        Kind of labels that is wanted.
    name
        Key of `LAYOUTS`; None takes the one whose two folders are there.
    where
        The folder, for messages.

    Raises
    ------
    InputError
        An unknown name, no layout or several that fit.
    """
    candidates = [layout for layout in LAYOUTS.values() if layout.kind == kind]
    names = ", ".join(layout.name for layout in candidates)
    if name is not None:
        candidates = [layout for layout in candidates if layout.name == name]
        if not candidates:
            raise InputError(f"there is no layout {name!r} of {kind}; there are {names}")
    fitting = []
    for layout in candidates:
        images, labels = layout.split(files)
        if images and labels:
            fitting.append((layout, images, labels))
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        several = ", ".join(layout.name for layout, _, _ in fitting)
        raise InputError(f"{where} holds several sets, {several}; name one of these layouts")
    wanted = "; ".join(f"{layout.name}: {layout.describe()}" for layout in candidates)
    raise InputError(
        f"{where} has no two folders of images and {kind} ({wanted}); name the folder that holds "
        "both"
    )


def _below(path: str, parts: tuple[str, ...]) -> str | None:
    """Return a path's rest below the last occurrence of some folders, without suffix, or None."""
    folders = path.split("/")[:-1]
    for start in range(len(folders) - len(parts), -1, -1):
        if tuple(folders[start : start + len(parts)]) == parts:
            return "/".join(path.split("/")[start + len(parts) :]).rpartition(".")[0]
    return None
