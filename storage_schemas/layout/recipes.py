"""Recipes: everything that a product's bytes depend on, and the key made of it.

A recipe is a small frozen model. Inputs that are products themselves are named by their keys, so
a key stands for the whole history behind a product. ``version`` is the stage's version number: it
is raised by hand when the stage's results change, and never derived from source code. What the
stages compute is in docs/method.md.
"""

import hashlib
import json
import re
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from soapworks.storage_schemas.layout.names import slug

KEY_PATTERN = r"^[0-9a-f]{64}$"


class Part(BaseModel):
    """A piece of a recipe: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Recipe(Part):
    """The recipe of one product.

    Attributes
    ----------
    kind
        Kind of the product; the folder of the store in which it lies.
    key
        sha256 (64 hex digits) of the canonical JSON of kind and fields.
    slug
        Readable name made of the recipe's own fields alone, so that equal recipes have equal
        addresses whatever the checkpoint was called.
    """

    kind: ClassVar[str]
    left_out: ClassVar[tuple[str, ...]] = ()
    """Fields that are newer than the first keys: no part of the key while they are None."""

    def canonical_json(self) -> bytes:
        """Return the bytes that the key is made of: sorted keys, no spaces, ASCII."""
        fields = {"kind": self.kind, **self.model_dump(mode="json")}
        for name in self.left_out:
            if fields[name] is None:
                del fields[name]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode("ascii")

    @property
    def key(self) -> str:
        """The product's key, 64 hex digits."""
        return hashlib.sha256(self.canonical_json()).hexdigest()

    @property
    def slug(self) -> str:
        """Readable part of the product's address."""
        return "-".join(slug(part, keep="_.", fill="_") for part in self._slug_parts())

    def _slug_parts(self) -> tuple[str, ...]:
        raise NotImplementedError


class CheckpointRecipe(Recipe):
    """What a checkpoint's files were found to hold; remembered, so that they are digested once."""

    kind: ClassVar[str] = "checkpoints"
    left_out: ClassVar[tuple[str, ...]] = ("part",)
    version: Literal[1, 2] = 2
    """2: averages go before raw weights, and everything in a file is accounted for."""
    source: str = Field(pattern=KEY_PATTERN)
    """sha256 of the identity of the files: address, size, dates of change, inode or ETag."""
    architecture: str | None
    """The architecture that was asked for; None where the checkpoint itself names it."""
    part: str | None = None
    """The part of the file that was asked for; None where the rules choose."""

    def _slug_parts(self) -> tuple[str, ...]:
        return ("checkpoint",)


class ImagesRecipe(Recipe):
    """Manifest of a set of images: its segments, image by image.

    The key depends on contents alone: not on the folder's address, names or dates.
    """

    kind: ClassVar[str] = "images"
    version: Literal[1] = 1
    segments: tuple[str, ...] = Field(min_length=1)
    """Digest of each segment (see RealInput.images), in order."""
    n_images: int = Field(ge=1)
    unreadable: tuple[str, ...] = ()
    """sha256 of the files that look like images and cannot be read, ascending."""

    def _slug_parts(self) -> tuple[str, ...]:
        return (f"{self.n_images}_images",)


class RealInput(Part):
    """One segment of a set of images, preprocessed."""

    domain: Literal["real"] = "real"
    images: str = Field(pattern=KEY_PATTERN)
    """sha256 over the content digests of the segment's images, in order."""
    n_images: int = Field(ge=1)
    preprocessing: Literal["squash", "timm"]
    interpolation: str
    crop_fraction: float
    crop_mode: str


class SyntheticInput(Part):
    """One segment of a seeded set of synthetic images: start to start + n_images - 1."""

    domain: Literal["synthetic"] = "synthetic"
    spec: str
    spec_version: int
    seed: int = Field(ge=0)
    start: int = Field(ge=0)
    n_images: int = Field(ge=1)


class Subject(Part):
    """What is scored: a checkpoint's tensors in an architecture, read at a layer."""

    architecture: str
    model_args: tuple[tuple[str, str], ...] = ()
    """Arguments beyond the architecture's name: (name, value as JSON), sorted by name."""
    weights: str = Field(pattern=KEY_PATTERN)
    """Digest of the checkpoint's tensors (name, dtype, shape, bytes)."""
    layer: str


class SubjectRecipe(Recipe):
    """A recipe about one subject, whose slug names it."""

    subject: Subject

    def _slug_parts(self) -> tuple[str, ...]:
        return (self.subject.architecture, self.subject.layer)


class PrecisionRecipe(SubjectRecipe):
    """The finding that float16 does not hold a layer's features; absent where it does."""

    kind: ClassVar[str] = "precision"
    version: Literal[1] = 1
    input: RealInput
    """First segment of the set of images."""
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: Literal["float32", "bfloat16", "float16"]
    """Precision in which the forward pass is computed."""


class FeaturesRecipe(SubjectRecipe):
    """Patch tokens of a set of images at a layer."""

    kind: ClassVar[str] = "features"
    version: Literal[1] = 1
    input: RealInput | SyntheticInput = Field(discriminator="domain")
    image_size: tuple[int, int]
    """Height and width of the model's input, pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: Literal["float32", "bfloat16", "float16"]
    """Precision in which the forward pass is computed."""
    dtype: Literal["float16", "float32"]
    """Precision in which the features are stored."""
    block_images: int = Field(ge=1)
    """Images in a block: the unit of work, of a shard and of the jackknife."""

    @property
    def n_blocks(self) -> int:
        """Number of blocks of the segment."""
        return -(-self.input.n_images // self.block_images)

    def span(self, number: int) -> tuple[int, int]:
        """Return [start, stop) of a block's images in the segment."""
        start = number * self.block_images
        return start, min(start + self.block_images, self.input.n_images)

    def _slug_parts(self) -> tuple[str, ...]:
        return (*super()._slug_parts(), self.input.domain)


class MomentsRecipe(SubjectRecipe):
    """Count, mean and scatter of the tokens of one segment of features."""

    kind: ClassVar[str] = "moments"
    version: Literal[1] = 1
    features: str = Field(pattern=KEY_PATTERN)
    precision: Literal["float32", "float64"]
    """Precision of the products of block-centred tokens; merging is float64 always."""


class PcaRecipe(SubjectRecipe):
    """Principal components of the merged moments of all segments."""

    kind: ClassVar[str] = "pca"
    version: Literal[1] = 1
    moments: tuple[str, ...] = Field(min_length=1)
    """Keys of the segments' moments, in order."""


class ResponsesRecipe(SubjectRecipe):
    """Positive responses per block, position and component of one segment."""

    kind: ClassVar[str] = "responses"
    version: Literal[1] = 1
    features: str = Field(pattern=KEY_PATTERN)
    domain: Literal["real", "synthetic"]
    pca: str = Field(pattern=KEY_PATTERN)

    def _slug_parts(self) -> tuple[str, ...]:
        return (*super()._slug_parts(), self.domain)


class ScoresRecipe(SubjectRecipe):
    """Semantic invariance of every component, with its standard error."""

    kind: ClassVar[str] = "scores"
    version: Literal[1] = 1
    pca: str = Field(pattern=KEY_PATTERN)
    real: tuple[str, ...] = Field(min_length=1)
    """Keys of the real segments' responses, in order."""
    synthetic: tuple[str, ...] = Field(min_length=1)


class HeadRecipe(SubjectRecipe):
    """A SOAP head."""

    kind: ClassVar[str] = "heads"
    version: Literal[1] = 1
    pca: str = Field(pattern=KEY_PATTERN)
    scores: str = Field(pattern=KEY_PATTERN)
    weights: Literal["sigmoid", "scores", "selected"] = "sigmoid"
    """How weights are made: by the formula of docs/method.md, the scores, or listed components."""
    mu: float | Literal["threshold"] | None = 2.0
    tau: float | None = 0.05
    components: tuple[int, ...] = ()
    """Components suppressed with weight 1 where weights = "selected"."""
    centred: bool = False


def input_keys(recipe: Any) -> frozenset[str]:
    """Return every key that a recipe names: of products it was made from, and other digests.

    Parameters
    ----------
    recipe
        The recipe's fields as they are stored.
    """
    if isinstance(recipe, str):
        return frozenset([recipe] if re.fullmatch(KEY_PATTERN, recipe) else [])
    if isinstance(recipe, dict):
        recipe = list(recipe.values())
    if not isinstance(recipe, (list, tuple)):
        return frozenset()
    return frozenset().union(*map(input_keys, recipe))
