"""A set of images with their labels, in one order."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soapworks.errors import ImageError, InputError
from soapworks.evaluation.labelled.maps import LabelRule, read_label_map, read_mask
from soapworks.images.listing import ImageFolder
from soapworks.images.reading import read_image
from soapworks.names import printable


@dataclass(frozen=True)
class LeftOut:
    """A file that could not be read."""

    path: str
    """Path relative to the folder."""
    reason: str
    """A few words."""


@dataclass(frozen=True)
class LabelledImages:
    """Images and what is known of each, sorted by path; picklable, holds nothing open."""

    folder: ImageFolder
    kind: Literal["masks", "label maps", "classes", "photographs"]
    images: tuple[str, ...]
    """Paths relative to the folder."""
    labels: tuple[str, ...]
    """Paths of masks or label maps, or names of classes; empty strings for photographs."""
    groups: tuple[str, ...]
    """Images of one group are not independent of each other; by default each is its own."""
    digest: str
    """sha256 over kind, label rule and, image by image, the contents and labels."""
    image_digests: tuple[str, ...]
    """sha256 of each image file."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each upright image, pixels."""
    rule: LabelRule = field(default_factory=LabelRule)
    """How label files are understood."""
    values: tuple[int, ...] = ()
    """Label maps: the labels that occur and count."""
    left_out: tuple[LeftOut, ...] = ()
    """Files that could not be read; their partners are left out too."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def image(self, number: int) -> Image.Image:
        """Return one image, upright, RGB.

        Raises
        ------
        InputError
            The file has changed or gone since the set was read.
        """
        path = self.images[number]
        try:
            return read_image(self.folder.read(path))
        except ImageError as error:
            raise InputError(self._changed(path, error)) from error

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Return the object mask of one image, (height, width).

        Raises
        ------
        InputError
            Images without masks, or a file that has changed since the set was read.
        """
        self.require("masks")
        path = self.labels[number]
        try:
            return read_mask(self.folder.read(path), self.rule)
        except (ImageError, InputError) as error:
            raise InputError(self._changed(path, error)) from error

    def label_map(self, number: int) -> NDArray[np.int64]:
        """Return the label map of one image, (height, width).

        Raises
        ------
        InputError
            Images without label maps, or a file that has changed since the set was read.
        """
        self.require("label maps")
        path = self.labels[number]
        try:
            return read_label_map(self.folder.read(path), self.rule)
        except (ImageError, InputError) as error:
            raise InputError(self._changed(path, error)) from error

    def require(self, kind: str) -> None:
        """Raise InputError unless the set has this kind of labels."""
        if self.kind != kind:
            raise InputError(
                f"{self.folder.url} was read as {self.kind}, and this task needs {kind}"
            )

    def _changed(self, path: str, error: Exception) -> str:
        return (
            f"{printable(path)} in {self.folder.url} has changed since the set was read ({error}); "
            "start again"
        )
