"""Sets of images that change: what is done again, and that the numbers are right."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from soapworks.storage_schemas.store import Product
from soapworks.tasks.inputs.images import read_manifest
from soapworks.tasks.stages.respond import read_responses
from tests.small import write_photographs
from tests.tasks.conftest import Forwards, run_stages


def pca_of(request, row) -> Product:
    store = request.store()
    return store.product(store.product(row["key"]).recipe["pca"])


def test_only_new_photographs_get_a_forward_pass(
    request_of, photographs: Path, forwards: Forwards
) -> None:
    run_stages(request_of(layers="norm"))
    forwards.calls.clear()
    write_photographs(photographs, 5, first=21)
    run_stages(request_of(layers="norm"))
    assert forwards.n_images == 5


def test_grown_set_has_the_covariance_of_a_fresh_run(
    request_of, photographs: Path, tmp_path: Path
) -> None:
    settings = {"layers": "norm", "store_dtype": "float32", "moments_precision": "float64"}
    run_stages(request_of(**settings))
    write_photographs(photographs, 5, first=21)
    (grown,) = run_stages(request_of(**settings))
    fresh_request = request_of(**settings, store=str(tmp_path / "fresh"))
    (fresh,) = run_stages(fresh_request)
    one, other = (
        pca_of(request, row).open_zarr()
        for request, row in ((request_of(**settings), grown), (fresh_request, fresh))
    )
    np.testing.assert_allclose(one["mean"][...], other["mean"][...], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        *(
            (g["components"][...].T * g["explained_variance"][...]) @ g["components"][...]
            for g in (one, other)
        ),
        rtol=1e-9,
        atol=1e-9 * one["explained_variance"][0],
    )
    assert one["count"][()] == other["count"][()] == 26 * 16


def test_counts_of_segments_add_up(request_of) -> None:
    request = request_of(layers="norm")
    (row,) = run_stages(request)
    store = request.store()
    scores = store.product(store.product(row["key"]).recipe["scores"])
    counts, sizes = read_responses([store.product(key) for key in scores.recipe["real"]])
    # 21 images: segments of 8, 8 and 5, blocks of 4.
    assert sizes.tolist() == [4, 4, 4, 4, 4, 1]
    assert counts.max() <= 4
    assert (counts <= sizes[:, None, None, None]).all()


@pytest.mark.parametrize("change", ["remove", "overwrite"])
def test_a_segment_that_lost_a_photograph_is_cut_anew(
    request_of, photographs: Path, forwards: Forwards, change: str
) -> None:
    run_stages(request_of(layers="norm"))
    before = {product.key for product in request_of().store().products("images")}
    forwards.calls.clear()
    if change == "remove":
        (photographs / "0003.png").unlink()
    else:
        shutil.copy(
            write_photographs(photographs.parent / "x", 1, first=99) / "0099.png",
            photographs / "0003.png",
        )
    request = request_of(layers="norm")
    run_stages(request)
    # The first segment had 8 images; the second and third are kept.
    assert forwards.n_images == (7 if change == "remove" else 8)
    (newest,) = [p for p in request.store().products("images") if p.key not in before]
    assert [len(s) for s in read_manifest(newest).segments] == (
        [8, 5, 7] if change == "remove" else [8, 5, 8]
    )


def test_names_do_not_matter(request_of, photographs: Path, forwards: Forwards) -> None:
    run_stages(request_of(layers="norm"))
    forwards.calls.clear()
    (photographs / "deep").mkdir()
    (photographs / "0002.png").rename(photographs / "deep" / "another.png")
    moved = photographs.rename(photographs.parent / "moved")
    (row,) = run_stages(request_of(layers="norm", images=str(moved)))
    assert row["cached"]
    assert not forwards.calls


def test_known_files_are_not_read_again(
    request_of, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soapworks.images.listing import ImageFolder

    run_stages(request_of(layers="norm"))

    was_read: list[str] = []
    read = ImageFolder.read

    def recorded(self: ImageFolder, path: str) -> bytes:
        was_read.append(path)
        return read(self, path)

    monkeypatch.setattr(ImageFolder, "read", recorded)
    run_stages(request_of(layers="norm"))
    assert was_read == []
    write_photographs(photographs, 1, first=21)
    run_stages(request_of(layers="norm"))
    assert set(was_read) == {"0021.png"}


def test_more_synthetic_images_cost_their_own_passes(request_of, forwards: Forwards) -> None:
    run_stages(request_of(layers="norm", synthetic_images=16))
    forwards.calls.clear()
    run_stages(request_of(layers="norm", synthetic_images=20))
    assert forwards.n_images == 4
