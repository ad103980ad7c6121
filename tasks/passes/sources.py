"""Real or synthetic images for a backbone, a block at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from soapworks.errors import ImageError, InputError
from soapworks.images.listing import ImageFolder
from soapworks.images.preprocessing import Preprocessing
from soapworks.images.reading import read_image
from soapworks.names import printable
from soapworks.storage_schemas.layout.manifest import ImageEntry
from soapworks.storage_schemas.layout.recipes import SyntheticInput
from soapworks.synthesis.images import renormalise, synthesize

if TYPE_CHECKING:
    import torch


class ImageSource(Protocol):
    """A numbered set of model inputs."""

    @property
    def n_images(self) -> int:
        """Return the number of images."""

    def batches(self, spans: Sequence[tuple[int, int]]) -> Iterator["torch.Tensor"]:
        """Yield float32 (n, 3, height, width), normalised, for each span [start, stop)."""

    def name(self, index: int) -> str:
        """Return what an image is called in a message."""


@dataclass(frozen=True)
class RealSource:
    """One segment of a set of images, read ahead on threads."""

    folder: ImageFolder
    segment: tuple[ImageEntry, ...]
    preprocessing: Preprocessing
    workers: int
    """Threads that read and decode."""

    @property
    def n_images(self) -> int:
        """Number of images in the segment."""
        return len(self.segment)

    def name(self, index: int) -> str:
        """Return the image's path."""
        return self.segment[index].path

    def batches(self, spans: Sequence[tuple[int, int]]) -> Iterator["torch.Tensor"]:
        """Yield the spans' images; the next span is decoded while this one is in use."""
        import torch

        with ThreadPoolExecutor(self.workers, "read") as pool:
            ahead = [pool.map(self._load, range(*span)) for span in spans[:1]]
            for number in range(len(spans)):
                images = list(ahead.pop(0))
                ahead += [pool.map(self._load, range(*span)) for span in spans[number + 1 :][:1]]
                yield torch.from_numpy(np.stack(images))

    def _load(self, index: int) -> "np.ndarray":
        entry = self.segment[index]
        try:
            data = self.folder.read(entry.path)
            if hashlib.sha256(data).hexdigest() != entry.digest:
                raise InputError(
                    f"{entry.path} was changed while the run was under way: run the same command "
                    "again, and it is indexed anew."
                )
            return self.preprocessing.apply(read_image(data))
        except ImageError as error:
            raise ImageError(
                f"{printable(entry.path)} in {self.folder.url} could be read when the images were "
                f"indexed, and cannot be read now: {error}"
            ) from error


@dataclass(frozen=True)
class SyntheticSource:
    """One segment of a seeded set of synthetic images, made on the device that needs them."""

    recipe: SyntheticInput
    size: int
    """Side, pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: str

    @property
    def n_images(self) -> int:
        """Number of synthetic images in the segment."""
        return self.recipe.n_images

    def name(self, index: int) -> str:
        """Return the synthetic image's number."""
        return f"synthetic image {self.recipe.start + index} of seed {self.recipe.seed}"

    def batches(self, spans: Sequence[tuple[int, int]]) -> Iterator["torch.Tensor"]:
        """Yield the spans' images."""
        first = self.recipe.start
        for start, stop in spans:
            images = synthesize(
                range(first + start, first + stop),
                self.size,
                spec=self.recipe.spec,
                seed=self.recipe.seed,
                device=self.device,
            )
            yield renormalise(images, self.mean, self.std)
