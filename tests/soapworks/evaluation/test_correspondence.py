import numpy as np
import pytest

from soapworks.errors import InputError
from soapworks.evaluation import correspondence, draw_crop_pair

CROP, PATCH = (64, 48), (16, 16)


def test_crops_lie_in_the_image_and_differ_by_whole_patches():
    rng = np.random.default_rng(1)
    offsets = set()
    for _ in range(400):
        pair = draw_crop_pair((101, 83), CROP, PATCH, rng)
        for start in (pair.first, pair.second):
            assert 0 <= start[0] <= 101 - 64
            assert 0 <= start[1] <= 83 - 48
        shift = np.subtract(pair.second, pair.first)
        assert tuple(shift // 16) == pair.offset
        assert (shift % 16 == 0).all()
        offsets.add(pair.offset)
    assert offsets == {(r, c) for r in (-2, -1, 1, 2) for c in (-1, 1)}


@pytest.mark.parametrize("offset", [(1, 2), (-2, 1), (-1, -3)])
def test_content_is_found_and_a_position_code_is_not(offset):
    rng = np.random.default_rng(0)
    world = rng.standard_normal((20, 20, 16))
    row, column = 6, 6
    first = world[row : row + 6, column : column + 7]
    second = world[row + offset[0] :, column + offset[1] :][:6, :7]
    found = correspondence(first, second, offset)
    assert (found.pck, found.same_place) == (1, 0)
    assert found.n_patches == (6 - abs(offset[0])) * (7 - abs(offset[1]))
    position = rng.standard_normal((6, 7, 16))
    coded = correspondence(position, position, offset)
    near = max(map(abs, offset)) <= 1  # the same place is then within one patch of the partner
    assert (coded.pck, coded.same_place) == (float(near), 1)


def test_agrees_with_a_naive_loop():
    rng = np.random.default_rng(3)
    first, second, offset = rng.random((5, 4, 3)), rng.random((5, 4, 3)), (2, -1)
    hits = same = n = 0
    for r in range(5):
        for c in range(4):
            partner = (r - offset[0], c - offset[1])
            if not (0 <= partner[0] < 5 and 0 <= partner[1] < 4):
                continue
            token = first[r, c] / np.linalg.norm(first[r, c])
            cosine = {
                (i, j): token @ second[i, j] / np.linalg.norm(second[i, j])
                for i in range(5)
                for j in range(4)
            }
            best = max(cosine, key=cosine.__getitem__)
            hits += max(abs(best[0] - partner[0]), abs(best[1] - partner[1])) <= 1
            same += best == (r, c)
            n += 1
    assert correspondence(first, second, offset) == (hits / n, same / n, n)


def test_what_cannot_be_measured_is_refused():
    tokens = np.ones((4, 4, 2))
    for offset in ((0, 1), (1, 0), (4, 1)):
        with pytest.raises(InputError, match="offset"):
            correspondence(tokens, tokens, offset)
    with pytest.raises(InputError, match="cosine"):
        correspondence(tokens * 0, tokens, (1, 1))
    with pytest.raises(InputError, match="equal"):
        correspondence(tokens, tokens[:3], (1, 1))
    with pytest.raises(InputError, match="larger by one patch"):
        draw_crop_pair((64, 64), CROP, PATCH, np.random.default_rng(0))
