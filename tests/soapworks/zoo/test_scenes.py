import numpy as np
import pytest
from PIL import Image

from soapworks.errors import InputError
from soapworks.zoo.scenes import (
    N_CLASSES,
    SHAPE_NAMES,
    TEXTURE_NAMES,
    Thing,
    render_scene,
    write_scenes,
)
from soapworks.zoo.shapes import shape_field
from soapworks.zoo.textures import texture_pattern


def pixel_centres(size):
    line = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    return np.meshgrid(line, line)


def inside(shape, u, v):
    """One point, plain geometry: inside the shape or not (angles in degrees, v downwards)."""
    radius = np.hypot(u, v)
    match shape:
        case "disc":
            return radius < 1
        case "square":
            return -0.8 < u < 0.8 and -0.8 < v < 0.8
        case "bar":
            return -1 < u < 1 and -0.35 < v < 0.35
        case "cross":
            return (abs(u) < 1 and abs(v) < 0.3) or (abs(v) < 1 and abs(u) < 0.3)
        case "ring":
            return 0.5 < radius < 1
        case "crescent":
            return radius < 1 and (u - 0.5) ** 2 + v**2 > 0.75**2
        case "triangle":
            turns = np.deg2rad([-90, 30, 150])
            return in_polygon(np.cos(turns), np.sin(turns), u, v)
        case "star":
            turns = np.deg2rad(np.arange(10) * 36)
            lengths = np.tile([1, 0.45], 5)
            return in_polygon(lengths * np.cos(turns), lengths * np.sin(turns), u, v)
    raise AssertionError(shape)


def in_polygon(xs, ys, x, y):
    """Even-odd rule: a ray to the right crosses the outline an odd number of times."""
    odd = False
    for x0, y0, x1, y1 in zip(xs, ys, np.roll(xs, -1), np.roll(ys, -1), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            odd = not odd
    return odd


@pytest.mark.parametrize("shape", SHAPE_NAMES)
def test_shape_field_is_negative_exactly_inside_the_outline(shape):
    u, v = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 4000)).astype(np.float32)
    field = shape_field(shape, u, v)
    expected = np.array([inside(shape, float(a), float(b)) for a, b in zip(u, v, strict=True)])
    clear = np.abs(field) > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal((field < 0)[clear], expected[clear])


@pytest.mark.parametrize("texture", TEXTURE_NAMES)
def test_textures_stay_between_their_two_colours_and_vary(texture):
    x, y = pixel_centres(64)
    pattern = texture_pattern(texture, x, y, np.random.default_rng(3))
    assert pattern.shape == (64, 64)
    assert pattern.min() >= 0
    assert pattern.max() <= 1
    assert pattern.std() > 0.02


def test_scene_is_a_function_of_seed_and_index_alone():
    alone = render_scene(5, seed=2)
    for index in range(5):
        render_scene(index, seed=2)
    again = render_scene(5, seed=2)
    np.testing.assert_array_equal(alone.image, again.image)
    np.testing.assert_array_equal(alone.mask, again.mask)
    assert (alone.label, alone.things) == (again.label, again.things)


def test_other_index_or_seed_is_another_scene():
    image = render_scene(5, seed=2).image
    assert (image != render_scene(6, seed=2).image).any()
    assert (image != render_scene(5, seed=3).image).any()


@pytest.mark.parametrize("size", [8, 33, 96, 224])
def test_scene_has_the_size_and_types_it_promises(size):
    scene = render_scene(0, size=size)
    assert scene.image.shape == (size, size, 3)
    assert scene.mask.shape == (size, size)
    assert scene.image.dtype == scene.mask.dtype == np.uint8
    assert scene.mask.max() < N_CLASSES


def test_mask_agrees_with_the_things_of_the_scene():
    size = 48
    for index in range(12):
        scene = render_scene(index, size=size)
        expected = np.zeros((size, size), int)
        for thing in scene.things:
            cos, sin = np.cos(thing.angle), np.sin(thing.angle)
            for row in range(size):
                for column in range(size):
                    dx = ((column + 0.5) / size - thing.x) / thing.radius
                    dy = ((row + 0.5) / size - thing.y) / thing.radius
                    if inside(thing.shape, cos * dx + sin * dy, -sin * dx + cos * dy):
                        expected[row, column] = thing.class_id
        # A pixel centre on an outline may fall on either side in float32.
        assert (scene.mask != expected).mean() < 1e-3


def test_label_is_the_largest_class_of_the_mask():
    for index in range(20):
        scene = render_scene(index)
        areas = {c: int((scene.mask == c).sum()) for c in np.unique(scene.mask) if c}
        assert areas[scene.label] == max(areas.values())


def test_every_class_has_a_number_of_its_own():
    numbers = [Thing(s, t, 0, 0, 1, 0).class_id for s in SHAPE_NAMES for t in TEXTURE_NAMES]
    assert sorted(numbers) == list(range(1, N_CLASSES))


def test_things_lie_anywhere_and_cover_a_part_of_the_scene():
    masks = np.stack([render_scene(i, size=24, seed=1).mask > 0 for i in range(400)])
    cover = masks.mean(0)
    assert 0.1 < cover.mean() < 0.25
    left, right, top, bottom = cover[:, :12], cover[:, 12:], cover[:12], cover[12:]
    np.testing.assert_allclose(left.mean(), right.mean(), atol=0.03)
    np.testing.assert_allclose(top.mean(), bottom.mean(), atol=0.03)


def test_geometry_does_not_depend_on_the_size():
    small, large = render_scene(3, size=48), render_scene(3, size=96)
    assert small.things == large.things
    assert ((small.mask > 0).mean() - (large.mask > 0).mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    "wrong", [{"index": -1}, {"index": 0, "seed": -1}, {"index": 0, "size": 4}]
)
def test_impossible_scenes_are_refused(wrong):
    with pytest.raises(InputError, match="size >= 8"):
        render_scene(**wrong)


def test_written_scenes_are_the_rendered_ones(tmp_path):
    paths = write_scenes(tmp_path / "made" / "here", 3, size=32, seed=4)
    assert [path.name for path in paths] == [f"scene-0000{i}.png" for i in range(3)]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == [p.name for p in paths]
    for index, path in enumerate(paths):
        with Image.open(path) as image:
            np.testing.assert_array_equal(
                np.asarray(image), render_scene(index, size=32, seed=4).image
            )


def test_writing_again_leaves_files_alone_and_mends_damaged_ones(tmp_path):
    first, second = write_scenes(tmp_path, 2, size=32)
    whole = second.read_bytes()
    before = first.stat()
    second.write_bytes(whole[:50])
    write_scenes(tmp_path, 2, size=32)
    after = first.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert second.read_bytes() == whole
