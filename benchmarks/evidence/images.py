"""Compose images with objects, masks and categories from Debian's packages.

Real pixels in made-up compositions: cut-out objects (tuxpaint's stamps) stand on crops of some 29
photographs (desktop backgrounds). Edges are sharp and objects float, so segmentation is easier than
on the field's data sets. Photographs and objects are split in two halves: heads are fitted on one
and judged on the other.
"""

import csv
import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 320
"""Side of a composed image, pixels."""

PACKAGES = (
    "mate-backgrounds",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "tuxpaint-stamps-default",
)

_PHOTOGRAPHS = re.compile(
    "Fossa|Picture_1A|Wine|greentock|seeding|aitzgorri|Kleiber|Dragonfly|friends|sunset|free_by|"
    "picosdeeuropa|umang|Picture_0B|Infinite-Sea|life_by|Bridge|Garden|Dune|Wood|Aqua|Storm|"
    "GreenMeadow|RainDrops|Blinds|LadyBird|YellowFlower|TwoWings|the-mouse"
)
_LEFT_OUT = ("symbols", "cartoon", "naturalforces", "military", "people/body")
_LEAST_COLOURS = 150  # fewer: a drawing


@dataclass(frozen=True)
class Stamp:
    """A cut-out object."""

    image: Image.Image
    category: str
    name: str


@dataclass(frozen=True)
class Material:
    """What images are composed of."""

    photographs: list[Image.Image]
    stamps: list[Stamp]

    def half(self, number: int) -> "Material":
        """Return every other photograph and object, from the first (0) or the second (1)."""
        return Material(self.photographs[number::2], self.stamps[number::2])


def read_material(root: Path) -> Material:
    """Read photographs and photographed objects from the unpacked packages."""
    Image.MAX_IMAGE_PIXELS = None
    paths = sorted((root / "usr/share/backgrounds").rglob("*.jpg"))
    photographs = []
    for path in paths:
        if _PHOTOGRAPHS.search(str(path)):
            with Image.open(path) as image:
                image = image.convert("RGB")
                image.thumbnail((2000, 2000))
                photographs.append(image)
    stamps = []
    folder = root / "usr/share/tuxpaint/stamps"
    for path in sorted(folder.rglob("*.png")):
        parts = path.relative_to(folder).parts
        if any(word in "/".join(parts) for word in _LEFT_OUT) or not len(parts) >= 2:
            continue
        with Image.open(path) as image:
            if image.mode not in ("RGBA", "LA", "P") or min(image.size) < 120:
                continue
            image = image.convert("RGBA")
        pixels = np.array(image)
        inside = pixels[..., 3] > 200
        colours = len(np.unique(pixels[inside][:, :3] // 8, axis=0))
        if 0.15 < (pixels[..., 3] > 128).mean() < 0.9 and colours > _LEAST_COLOURS:
            stamps.append(Stamp(image, "/".join(parts[:2][: len(parts) - 1]), "/".join(parts)))
    if not photographs or not stamps:
        raise SystemExit(f"{root} does not hold the packages {', '.join(PACKAGES)}")
    return Material(photographs, stamps)


def write_set(
    material: Material, folder: Path, *, n_backgrounds: int, n_objects: int, seed: int
) -> None:
    """Write images/, masks/ (0 or 255) and objects.csv (name, category, stamp)."""
    if (folder / "objects.csv").exists():
        return
    rng = random.Random(seed)
    for name in ("images/backgrounds", "images/objects", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(n_backgrounds):
        crop(material, rng).save(folder / f"images/backgrounds/{number:04}.jpg", quality=92)
    rows = []
    for number in range(n_objects):
        stamp = material.stamps[number % len(material.stamps)]
        image, mask = compose(stamp, crop(material, rng), rng)
        image.save(folder / f"images/objects/{number:04}.jpg", quality=92)
        mask.save(folder / f"masks/{number:04}.png")
        rows.append([f"{number:04}", stamp.category, stamp.name])
    with (folder / "objects.csv").open("w", newline="") as table:
        csv.writer(table).writerows([["name", "category", "stamp"], *rows])


def crop(material: Material, rng: random.Random) -> Image.Image:
    """Cut a square of a photograph at random, turned over half of the time."""
    photograph = rng.choice(material.photographs)
    side = rng.uniform(0.35, 1) * min(photograph.size)
    left, top = (rng.uniform(0, length - side) for length in photograph.size)
    box = (int(left), int(top), int(left + side), int(top + side))
    cut = photograph.crop(box).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cut


def compose(
    stamp: Stamp, ground: Image.Image, rng: random.Random
) -> tuple[Image.Image, Image.Image]:
    """Put an object on a background; return the image and its mask."""
    scale = rng.uniform(0.35, 0.75) * SIZE / max(stamp.image.size)
    size = [max(8, int(side * scale)) for side in stamp.image.size]
    thing = stamp.image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    place = (rng.randint(0, SIZE - size[0]), rng.randint(0, SIZE - size[1]))
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(thing.getchannel("A"), place)
    ground.paste(thing.convert("RGB"), place, thing.getchannel("A"))
    return ground, mask.point(lambda value: 255 * (value > 127))
