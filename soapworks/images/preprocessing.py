"""From an RGB image to the model's input: crop, resize, scale, normalise.

Pillow and NumPy alone. Every step after the resize is done in float32 in the order in which
torchvision does it ((value / 255 - mean) / std), so ``timm`` mode gives bit for bit what timm's
own evaluation transform gives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soapworks.errors import ImageError, InputError
from soapworks.images.reading import DEFAULT_MAX_PIXELS

MODES = ("squash", "timm")
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Names of the resampling filters, all of them antialiased, to Pillow's numbers."""

_NARROWEST, _WIDEST = 3 / 4, 4 / 3  # aspect ratios (width / height) that are squashed as they are
# What timm's own data configuration falls back to where a model's says nothing.
_TIMM_INTERPOLATION, _TIMM_CROP_FRACTION, _TIMM_CROP_MODE = "bicubic", 0.875, "center"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input; every field is part of what the features depend on.

    Raises
    ------
    InputError
        A field that cannot be used; lists and integers are brought to the declared types.

    Examples
    --------
    >>> half = (0.5, 0.5, 0.5)
    >>> spec = Preprocessing("squash", size=2, mean=half, std=half)
    >>> spec.apply(Image.new("RGB", (40, 30), "white")).tolist()[0]
    [[1.0, 1.0], [1.0, 1.0]]
    """

    mode: str
    """``squash``: centre crop to an aspect ratio within [3/4, 4/3], then resize to a square,
    whatever the ratio. ``timm``: the model's evaluation transform. Section 2 of docs/method.md."""
    size: int
    """Side of the square input, pixels."""
    mean: tuple[float, float, float]
    """Mean of each channel, red, green, blue, on the scale 0 to 1."""
    std: tuple[float, float, float]
    """Standard deviation of each channel, on the scale 0 to 1."""
    interpolation: str = "bilinear"
    """Resampling filter, a key of `INTERPOLATIONS`."""
    crop_fraction: float = 1.0
    """``timm``: share of the resized side that the crop keeps (timm's ``crop_pct``)."""
    crop_mode: str = "center"
    """``timm``: ``center`` (resize the short side, crop), ``squash`` (resize both sides, crop) or
    ``border`` (resize the long side, pad with the mean)."""

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "mean", _three_numbers(self.mean, "mean"))
        object.__setattr__(self, "std", _three_numbers(self.std, "std"))
        object.__setattr__(self, "crop_fraction", float(self.crop_fraction))
        _one_of(self.mode, MODES, "preprocessing")
        _one_of(self.interpolation, INTERPOLATIONS, "interpolation")
        _one_of(self.crop_mode, _TIMM_CROPS, "crop mode")
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise InputError(f"image size is {self.size!r}, but a whole number from 1 is needed")
        if min(self.std) <= 0:
            raise InputError(f"std is {self.std}, but every channel's must be above 0")
        if not (isfinite(self.crop_fraction) and self.crop_fraction > 0):
            raise InputError(f"crop fraction is {self.crop_fraction}, but must be above 0")

    def apply(self, image: Image.Image) -> NDArray[np.float32]:
        """Return one image as the model's input.

        Parameters
        ----------
        image
            Mode ``RGB``, as `soapworks.images.reading.read_image` returns it.

        Returns
        -------
        numpy.ndarray
            float32, (3, size, size), contiguous, normalised. Exactly (v / 255 - mean) / std of
            the resized 8-bit value v, each operation rounded to float32.

        Raises
        ------
        InputError
            The image is not RGB.
        ImageError
            The image is so long and narrow that resizing its short side would need more than
            `DEFAULT_MAX_PIXELS` pixels.
        """
        if image.mode != "RGB":
            raise InputError(f"image has mode {image.mode}, but RGB is needed; use read_image")
        square = _squash(image, self) if self.mode == "squash" else _timm(image, self)
        planes = np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)).astype(np.float32)
        planes /= np.float32(255)
        planes -= np.array(self.mean, np.float32)[:, None, None]
        planes /= np.array(self.std, np.float32)[:, None, None]
        return planes


def preprocessing_for(
    mode: str,
    *,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    pretrained_cfg: Any = None,
) -> Preprocessing:
    """Choose the preprocessing of a model.

    Parameters
    ----------
    mode
        ``squash`` or ``timm``.
    size
        Side of the model's square input, pixels.
    mean, std
        The model's own, on the scale 0 to 1.
    pretrained_cfg
        For ``timm``: the model's configuration, a mapping or timm's ``PretrainedCfg``; its
        ``interpolation``, ``crop_pct`` and ``crop_mode`` are used. What is missing is as in timm:
        bicubic, 0.875, centre. ``squash`` ignores it.

    Raises
    ------
    InputError
        An unknown mode, or a configuration that asks for an unknown filter or crop.

    Examples
    --------
    >>> half = (0.5, 0.5, 0.5)
    >>> cfg = {"interpolation": "bilinear", "crop_pct": 1.0}
    >>> preprocessing_for("timm", size=224, mean=half, std=half, pretrained_cfg=cfg).interpolation
    'bilinear'
    """
    if mode != "timm":
        return Preprocessing(mode, size, mean, std)
    wanted = pretrained_cfg or {}
    if not isinstance(wanted, Mapping):
        wanted = {name: getattr(wanted, name, None) for name in _CFG_FIELDS}
    interpolation, crop_fraction, crop_mode = (wanted.get(name) for name in _CFG_FIELDS)
    return Preprocessing(
        mode,
        size,
        mean,
        std,
        interpolation or _TIMM_INTERPOLATION,
        crop_fraction or _TIMM_CROP_FRACTION,
        crop_mode or _TIMM_CROP_MODE,
    )


_CFG_FIELDS = ("interpolation", "crop_pct", "crop_mode")


def _squash(image: Image.Image, spec: Preprocessing) -> Image.Image:
    width, height = image.size
    kept_width, kept_height = width, height
    if width / height < _NARROWEST:
        kept_height = round(width / _NARROWEST)
    elif width / height > _WIDEST:
        kept_width = round(height * _WIDEST)
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    # Cropped first: resize(box=...) would let the filter see pixels outside of the box.
    image = image.crop((left, top, left + kept_width, top + kept_height))
    return _resize(image, spec.size, spec.size, spec)


def _timm(image: Image.Image, spec: Preprocessing) -> Image.Image:
    return _TIMM_CROPS[spec.crop_mode](image, floor(spec.size / spec.crop_fraction), spec)


def _timm_center(image: Image.Image, scale: int, spec: Preprocessing) -> Image.Image:
    width, height = image.size
    long_side = int(scale * max(width, height) / min(width, height))
    if scale * long_side > DEFAULT_MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} pixels are too long and narrow for the timm preprocessing: "
            f"resized to {scale} x {long_side} it exceeds {DEFAULT_MAX_PIXELS} pixels"
        )
    shape = (scale, long_side) if width <= height else (long_side, scale)
    return _centre(_resize(image, *shape, spec), spec.size, (0, 0, 0))


def _timm_squash(image: Image.Image, scale: int, spec: Preprocessing) -> Image.Image:
    return _centre(_resize(image, scale, scale, spec), spec.size, (0, 0, 0))


def _timm_border(image: Image.Image, scale: int, spec: Preprocessing) -> Image.Image:
    ratio = max(image.width / scale, image.height / scale)
    width, height = (max(1, round(side / ratio)) for side in image.size)
    red, green, blue = (round(255 * value) for value in spec.mean)
    return _centre(_resize(image, width, height, spec), spec.size, (red, green, blue))


_TIMM_CROPS: dict[str, Callable[[Image.Image, int, Preprocessing], Image.Image]] = {
    "center": _timm_center,
    "squash": _timm_squash,
    "border": _timm_border,
}


def _resize(image: Image.Image, width: int, height: int, spec: Preprocessing) -> Image.Image:
    return image.resize((width, height), INTERPOLATIONS[spec.interpolation])


def _centre(image: Image.Image, size: int, fill: tuple[int, int, int]) -> Image.Image:
    """Crop the central square, padding a side that is too short."""
    left, top = (_margin(side, size) for side in image.size)
    if left >= 0 and top >= 0:
        return image.crop((left, top, left + size, top + size))
    square = Image.new("RGB", (size, size), fill)
    square.paste(image, (-left, -top))
    return square


def _margin(length: int, wanted: int) -> int:
    # Rounded as torchvision rounds: the padding down, the crop to the nearest even.
    return -((wanted - length) // 2) if wanted > length else round((length - wanted) / 2)


def _one_of(value: str, known: Any, what: str) -> None:
    if value not in known:
        raise InputError(f"unknown {what} {value!r}; known are {', '.join(known)}")


def _three_numbers(values: Any, what: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is {values!r}, but three numbers are needed") from error
    if not all(isfinite(value) for value in (red, green, blue)):
        raise InputError(f"{what} is {values!r}, but the numbers must be finite")
    return red, green, blue
