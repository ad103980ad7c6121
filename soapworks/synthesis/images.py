"""Synthetic non-semantic images (METHOD 1): seeded noise that shows nothing.

Image i is a function of (spec and its version, seed, size, i) alone: whatever else is asked for in
the same call, in whatever order and on however many workers. On the CPU its bytes are the same in
each case; on a GPU it agrees with them to float rounding. Versions of a spec are raised by hand
when its pixels change.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soapworks.errors import InputError
from soapworks.synthesis._arguments import SPECS, checked_indices, checked_recipe
from soapworks.synthesis._noise import IMAGENET_MEAN, IMAGENET_STD, N_CHANNELS, NoiseRecipe, weights
from soapworks.synthesis._numpy import NumpyRenderer

if TYPE_CHECKING:
    import torch

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "KINDS",
    "SPECS",
    "mixture_weights",
    "renormalise",
    "synthesize",
    "synthesize_part",
]

KINDS = ("mixture", "modulated_white", "pink", "gradient")
"""The images themselves, then their parts in the order of the mixture's weights."""

_Images = TypeVar("_Images", "NDArray[Any]", "torch.Tensor")


@overload
def synthesize(
    indices: ArrayLike, size: int, *, spec: str = ..., seed: int = ..., device: None = ...
) -> NDArray[np.float32]: ...
@overload
def synthesize(
    indices: ArrayLike,
    size: int,
    *,
    spec: str = ...,
    seed: int = ...,
    device: "str | torch.device",
) -> "torch.Tensor": ...
def synthesize(
    indices: ArrayLike,
    size: int,
    *,
    spec: str = "authors",
    seed: int = 0,
    device: "str | torch.device | None" = None,
) -> "NDArray[np.float32] | torch.Tensor":
    """Make synthetic images, normalised with ImageNet's mean and standard deviation.

    Each is a mixture of modulated white noise, pink noise and a colour gradient, with weights from
    Dirichlet(1, 1, 2). Gradients of ``authors`` only ever brighten to the right and down, and about
    half of their pixels saturate; ``balanced`` has instead, in each channel's pixel space,
    a*x + b*y + c with (a, b) uniform in |a| + |b| <= 1 and the middle's value uniform over the room
    that is left in [0, 1], so brightness falls as often as it rises and nothing is clipped.

    Parameters
    ----------
    indices : (n,) integers
        Which images of the endless sequence to make, such as ``range(64)``.
    size
        Side of the square images in pixels, at least 2.
    spec
        A name of `SPECS`.
    seed
        From 0 to 2**63 - 1.
    device
        None for NumPy; otherwise where the tensor is wanted. On a GPU it is made there.

    Returns
    -------
    (n, 3, size, size) float32
        A NumPy array, or a torch tensor on `device`.

    Raises
    ------
    InputError
        If an argument is out of its range or the spec is unknown.

    See Also
    --------
    renormalise : for models whose mean and standard deviation are not ImageNet's.
    synthesize_part : one part alone.

    Examples
    --------
    >>> synthesize(range(4), 32).shape
    (4, 3, 32, 32)
    """
    return _render("mixture", indices, size, spec, seed, device)


@overload
def synthesize_part(
    kind: str,
    indices: ArrayLike,
    size: int,
    *,
    spec: str = ...,
    seed: int = ...,
    device: None = ...,
) -> NDArray[np.float32]: ...
@overload
def synthesize_part(
    kind: str,
    indices: ArrayLike,
    size: int,
    *,
    spec: str = ...,
    seed: int = ...,
    device: "str | torch.device",
) -> "torch.Tensor": ...
def synthesize_part(
    kind: str,
    indices: ArrayLike,
    size: int,
    *,
    spec: str = "authors",
    seed: int = 0,
    device: "str | torch.device | None" = None,
) -> "NDArray[np.float32] | torch.Tensor":
    """Make one part of the images that `synthesize` makes from the same arguments, unweighted.

    Weighted with `mixture_weights`, the three parts sum to the image, to float rounding.

    Parameters
    ----------
    kind
        A name of `KINDS`; ``mixture`` is `synthesize` itself.
    indices, size, spec, seed, device
        As for `synthesize`.

    Returns
    -------
    (n, 3, size, size) float32
        In ImageNet-normalised space, as NumPy array or torch tensor on `device`.

    Raises
    ------
    InputError
        If an argument is out of its range, or the kind or spec is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"Unknown kind of synthetic image {kind!r}: choose of {', '.join(KINDS)}.")
    return _render(kind, indices, size, spec, seed, device)


def mixture_weights(
    indices: ArrayLike, *, spec: str = "authors", seed: int = 0
) -> NDArray[np.float64]:
    """Return the weights of modulated white, pink and gradient in each image.

    Parameters
    ----------
    indices, spec, seed
        As for `synthesize`.

    Returns
    -------
    (n, 3) float64
        Rows sum to 1; drawn from Dirichlet(1, 1, 2).

    Raises
    ------
    InputError
        As `synthesize`.
    """
    recipe = checked_recipe(spec, seed, size=2)
    return np.array([weights(recipe, i) for i in checked_indices(indices)]).reshape(-1, 3)


def renormalise(images: _Images, mean: Sequence[float], std: Sequence[float]) -> _Images:
    """Take images from ImageNet's normalisation to a model's own, through pixel space.

    Parameters
    ----------
    images : (..., 3, height, width) float
        NumPy array or torch tensor, normalised with `IMAGENET_MEAN` and `IMAGENET_STD`.
    mean, std
        Three numbers each, for pixels in [0, 1]: what the model's own images are normalised with.

    Returns
    -------
    As `images`
        Same shape and dtype. The object itself if the model's mean and std are ImageNet's.

    Raises
    ------
    InputError
        If there are not three channels, means and (positive) standard deviations.
    """
    own_mean, own_std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
    if own_mean.shape != (N_CHANNELS,) or own_std.shape != (N_CHANNELS,) or not (own_std > 0).all():
        raise InputError(
            f"A model's mean and std are three numbers each, std above 0: got {mean} and {std}."
        )
    if images.ndim < 3 or images.shape[-3] != N_CHANNELS:
        raise InputError(
            f"Images are (..., 3, height, width) to be renormalised: got {tuple(images.shape)}."
        )
    if tuple(own_mean) == IMAGENET_MEAN and tuple(own_std) == IMAGENET_STD:
        return images
    shape = (N_CHANNELS, 1, 1)
    scale = (np.array(IMAGENET_STD) / own_std).reshape(shape)
    shift = ((np.array(IMAGENET_MEAN) - own_mean) / own_std).reshape(shape)
    if isinstance(images, np.ndarray):
        return images * scale.astype(images.dtype) + shift.astype(images.dtype)
    return images * images.new_tensor(scale) + images.new_tensor(shift)


def _render(
    kind: str,
    indices: ArrayLike,
    size: int,
    spec: str,
    seed: int,
    device: "str | torch.device | None",
) -> "NDArray[np.float32] | torch.Tensor":
    chosen = checked_indices(indices)
    recipe = checked_recipe(spec, seed, size)
    if device is None:
        return _render_numpy(kind, chosen, recipe)
    import torch

    where = torch.device(device)
    if where.type == "cpu":
        return torch.from_numpy(_render_numpy(kind, chosen, recipe))
    return _render_torch(kind, chosen, recipe, where)


def _render_numpy(kind: str, indices: list[int], recipe: NoiseRecipe) -> NDArray[np.float32]:
    images = np.empty((len(indices), N_CHANNELS, recipe.size, recipe.size), dtype=np.float32)
    renderer = NumpyRenderer(recipe)
    for image, index in zip(images, indices, strict=True):
        if kind == "mixture":
            renderer.image(index, out=image)
        else:
            image[...] = getattr(renderer.parts(index), kind)
    return images


def _render_torch(
    kind: str, indices: list[int], recipe: NoiseRecipe, device: "torch.device"
) -> "torch.Tensor":
    import torch

    from soapworks.synthesis._torch import TorchRenderer

    images = torch.empty(
        (len(indices), N_CHANNELS, recipe.size, recipe.size), dtype=torch.float32, device=device
    )
    renderer = TorchRenderer(recipe, device)
    for start in range(0, len(indices), renderer.images_per_batch):
        batch = indices[start : start + renderer.images_per_batch]
        made = renderer.images(batch) if kind == "mixture" else getattr(renderer.parts(batch), kind)
        images[start : start + len(batch)] = made
    return images
