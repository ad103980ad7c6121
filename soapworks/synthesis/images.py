"""Synthetic non-semantic images: seeded noise that shows nothing.

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
from soapworks.synthesis._noise import IMAGENET_MEAN, IMAGENET_STD, N_CHANNELS, NoiseRecipe
from soapworks.synthesis._numpy import NumpyRenderer

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "KINDS", "SPECS", "renormalise", "synthesize"]

KINDS = ("mixture", "modulated_white", "pink", "gradient")
"""The images themselves, then their parts in the order of the mixture's weights."""

_Images = TypeVar("_Images", "NDArray[Any]", "torch.Tensor")


@overload
def synthesize(
    indices: ArrayLike,
    size: int,
    *,
    spec: str = ...,
    seed: int = ...,
    kind: str = ...,
    device: None = ...,
) -> NDArray[np.float32]: ...
@overload
def synthesize(
    indices: ArrayLike,
    size: int,
    *,
    spec: str = ...,
    seed: int = ...,
    kind: str = ...,
    device: "str | torch.device",
) -> "torch.Tensor": ...
def synthesize(
    indices: ArrayLike,
    size: int,
    *,
    spec: str = "authors",
    seed: int = 0,
    kind: str = "mixture",
    device: "str | torch.device | None" = None,
) -> "NDArray[np.float32] | torch.Tensor":
    """Make synthetic images, normalised with ImageNet's mean and deviation.

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
    kind
        A name of `KINDS`: the mixture, or one of its parts alone, unweighted.
    device
        None for NumPy; otherwise where the tensor is wanted. On a GPU it is made there.

    Returns
    -------
    (n, 3, size, size) float32
        A NumPy array, or a torch tensor on `device`.

    Raises
    ------
    InputError
        If an argument is out of its range, or the spec or kind is unknown.

    See Also
    --------
    renormalise : for models whose mean and standard deviation are not ImageNet's.

    Notes
    -----
    Section 1 of docs/method.md.

    Examples
    --------
    >>> images = synthesize(range(4), 32)
    >>> images.shape, images.dtype.name
    ((4, 3, 32, 32), 'float32')
    >>> bool((synthesize([3], 32) == images[3:]).all())
    True
    """
    if kind not in KINDS:
        raise InputError(f"there is no kind {kind!r} of synthetic image; choose {_or(KINDS)}")
    chosen = checked_indices(indices)
    recipe = checked_recipe(spec, seed, size)
    if device is None:
        return _render_numpy(kind, chosen, recipe)
    import torch

    where = torch.device(device)
    if where.type == "cpu":
        return torch.from_numpy(_render_numpy(kind, chosen, recipe))
    return _render_torch(kind, chosen, recipe, where)


def renormalise(images: _Images, mean: Sequence[float], std: Sequence[float]) -> _Images:
    """Take images from ImageNet's normalisation to a model's own.

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

    Notes
    -----
    Section 1 of docs/method.md: through pixel space, as every model's own images are normalised.

    Examples
    --------
    >>> black = -np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)
    >>> renormalise(black.reshape(3, 1, 1), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).round(6).ravel()
    array([-1., -1., -1.])
    """
    own_mean, own_std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
    if own_mean.shape != (N_CHANNELS,) or own_std.shape != (N_CHANNELS,) or not (own_std > 0).all():
        raise InputError(
            f"a model's mean and std must be three numbers each, std above 0, not {mean} and {std}"
        )
    if images.ndim < 3 or images.shape[-3] != N_CHANNELS:
        raise InputError(
            f"images must be (..., 3, height, width) to be renormalised, not {tuple(images.shape)}"
        )
    if tuple(own_mean) == IMAGENET_MEAN and tuple(own_std) == IMAGENET_STD:
        return images
    shape = (N_CHANNELS, 1, 1)
    scale = (np.array(IMAGENET_STD) / own_std).reshape(shape)
    shift = ((np.array(IMAGENET_MEAN) - own_mean) / own_std).reshape(shape)
    if isinstance(images, np.ndarray):
        return images * scale.astype(images.dtype) + shift.astype(images.dtype)
    return images * images.new_tensor(scale) + images.new_tensor(shift)


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


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

    renderer = TorchRenderer(recipe, device)
    shape = (len(indices), N_CHANNELS, recipe.size, recipe.size)
    images = torch.empty(shape, dtype=torch.float32, device=device)
    for start in range(0, len(indices), renderer.images_per_batch):
        batch = indices[start : start + renderer.images_per_batch]
        made = renderer.images(batch) if kind == "mixture" else getattr(renderer.parts(batch), kind)
        images[start : start + len(batch)] = made
    return images
