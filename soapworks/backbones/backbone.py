"""A vision transformer with weights, ready to be asked for the features of its layers."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soapworks.backbones.architectures import TimmModel
from soapworks.backbones.checkpoint import Checkpoint
from soapworks.backbones.description import architecture_of, describe_model, wanted_size
from soapworks.backbones.info import BackboneInfo, Size, check_image_size
from soapworks.backbones.load_weights import load_weights
from soapworks.backbones.taps import read_layers
from soapworks.errors import InputError

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of precisions and the dtype that autocast uses, None without autocast."""


@dataclass(frozen=True, eq=False)
class Backbone(BackboneInfo):
    """A model and its description.

    Weights and residual stream are float32 in every precision; ``bfloat16`` and ``float16`` run
    matrix products and convolutions in that dtype (``torch.autocast``).
    """

    model: TimmModel
    """timm model in evaluation mode, without classifier and pooling."""
    device: torch.device
    """Where the model is and where features are returned."""
    precision: str
    """One of ``PRECISIONS``."""
    notes: tuple[str, ...] = ()
    """What was done to the weights that is worth a word: a resampled position embedding."""
    _pass: Lock = field(default_factory=Lock, repr=False)

    def features(
        self, images: Tensor | NDArray[np.floating[Any]], layers: str | Iterable[str]
    ) -> dict[str, Tensor]:
        """Read layers in one forward pass that ends with the deepest of them.

        Parameters
        ----------
        images
            (image, channel, row, column), normalised with ``mean`` and ``std``; array or tensor on
            any device. Usually of ``image_size``; other multiples of the patch size are taken
            too where the model can follow (Beit cannot). Its position embedding is then resampled
            from the grid of ``image_size``, so build the backbone without an image size for that.
        layers
            As for ``resolve_layers``.

        Returns
        -------
        dict
            Layer to float32 tensor (image, row, column, channel), contiguous, patch tokens only,
            in forward order. They are inference tensors: copy before changing them in place.

        Raises
        ------
        InputError
            If the images have another shape or dtype.
        LayerError
            If a layer is unknown.
        """
        names = self.resolve_layers(layers)
        batch = self._prepare(images)
        rows, columns = (
            side // patch for side, patch in zip(batch.shape[-2:], self.patch_size, strict=True)
        )

        def shape(tokens: Tensor) -> Tensor:
            patches = tokens[:, self.n_prefix_tokens :]
            if patches.shape[1] != rows * columns:
                raise InputError(
                    f"{self.architecture} makes {patches.shape[1]} patch tokens of an image that "
                    f"has {rows} x {columns} patches: it is no plain vision transformer"
                )
            patches = patches.reshape(len(patches), rows, columns, -1)
            return patches.to(torch.float32, memory_format=torch.contiguous_format).contiguous()

        # Hooks belong to one pass: a second thread must not see those of the first.
        with self._pass, torch.inference_mode(), self._autocast():
            return read_layers(self.model, batch, names, shape)

    def _prepare(self, images: Tensor | NDArray[np.floating[Any]]) -> Tensor:
        batch = torch.as_tensor(images)
        if batch.ndim != 4 or batch.shape[1] != 3 or not len(batch):
            raise InputError(
                "images must have the shape (image, 3, row, column) and be at least one, got "
                f"{tuple(batch.shape)}"
            )
        if not batch.is_floating_point():
            raise InputError(f"images must be normalised floating point, got {batch.dtype}")
        size = (batch.shape[2], batch.shape[3])
        if size != self.image_size:
            check_image_size(size, self.patch_size)
            if not getattr(self.model, "dynamic_img_size", False):
                raise InputError(
                    f"{self.architecture} was built for images of {self.image_size}, got {size}: "
                    "build it with this image size"
                )
        return batch.to(self.device, torch.float32, non_blocking=True)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)


def build_backbone(
    checkpoint: Checkpoint,
    *,
    image_size: int | Size | None = None,
    device: str | torch.device = "cpu",
    precision: str = "float32",
) -> Backbone:
    """Fit a checkpoint's weights to its architecture.

    Parameters
    ----------
    checkpoint
        From ``open_checkpoint``.
    image_size
        Side or (height, width) in pixels, a multiple of the patch size; the configuration's when
        None. Position embeddings trained on another grid are resampled as timm does.
    device
        Anything that torch calls a device.
    precision
        ``float32``, ``bfloat16`` or ``float16``.

    Raises
    ------
    CheckpointError
        If the weights cannot be read or do not fit; the message lists what does not.
    InputError
        If the image size, device or precision cannot be used.
    """
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    place = _usable_device(device)
    architecture = architecture_of(checkpoint)
    size = wanted_size(architecture, image_size)
    tensors = checkpoint.tensors()
    model, notes = load_weights(architecture, size, tensors, where=checkpoint.identifier)
    info = describe_model(model, architecture, size)
    return Backbone(
        **vars(info), model=model.to(place), device=place, precision=precision, notes=notes
    )


def _usable_device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(" .")
        raise InputError(f"the device {str(name)!r} is not available: {reason}") from error
    if device.type == "meta":
        raise InputError("the device 'meta' holds no numbers: use cpu or cuda")
    return device
