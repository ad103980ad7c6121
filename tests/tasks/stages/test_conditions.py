"""What is noted of how scores were measured, and where they may be compared."""

import hashlib
from typing import Any

import pytest

from soapworks.storage_schemas.store import Store
from soapworks.tasks.plan.request import ScoreRequest
from soapworks.tasks.stages.conditions import comparison, conditions
from tests.tasks.conftest import run_stages


def note(**changes: Any) -> dict[str, Any]:
    """What is noted of a segment; its input's fields can be changed."""
    real = {"images": "a" * 64, "n_images": 5, "preprocessing": "squash"}
    noise = {"spec": "authors", "spec_version": 1, "seed": 3, "start": 0}
    return {
        "input": real | noise | changes,
        "image_size": [32, 32],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "precision": "float32",
        "dtype": "float16",
        "block_images": 4,
    }


def test_segments_are_put_together() -> None:
    found = conditions([note(images="a" * 64), note(images="b" * 64, n_images=2)], [note()])
    assert found is not None
    digests = ("a" * 64 + "\n" + "b" * 64).encode()
    assert found["images"] == hashlib.sha256(digests).hexdigest()
    assert (found["n_real"], found["n_synthetic"], found["noise_seed"]) == (7, 5, 3)


def test_responses_without_a_note_leave_it_open() -> None:
    assert conditions([note(), {}], [note()]) is None


@pytest.mark.parametrize(
    "other",
    [
        ([note(images="b" * 64)], [note()]),
        ([note(preprocessing="timm")], [note()]),
        ([note()], [note(n_images=6)]),
        ([note()], [note(spec="balanced")]),
        ([note()], [note(seed=4)]),
    ],
)
def test_other_images_are_no_comparison(other: tuple[list[Any], list[Any]]) -> None:
    mine, theirs = conditions([note()], [note()]), conditions(*other)
    assert mine is not None
    assert theirs is not None
    assert comparison(mine) != comparison(theirs)


def test_another_input_size_is_still_a_comparison() -> None:
    mine, large = conditions([note()], [note()]), {**note(), "image_size": [64, 64]}
    theirs = conditions([large], [large])
    assert mine is not None
    assert theirs is not None
    assert comparison(mine) == comparison(theirs)


def test_a_head_says_how_it_was_measured(store: Store, finished: ScoreRequest) -> None:
    (head,) = store.products("heads")
    measured = head.facts["measured"]
    (manifest,) = store.products("images")
    segments = "\n".join(manifest.recipe["segments"]).encode()
    assert measured["images"] == hashlib.sha256(segments).hexdigest()
    assert (measured["n_real"], measured["n_synthetic"]) == (10, 6)
    assert measured["image_size"] == [32, 32]
    assert measured["block_images"] == 4


def test_without_features_the_same_is_said(store: Store, request_: ScoreRequest) -> None:
    options = {"store": store.url + "-streamed", "keep_features": "none"}
    streamed = request_.model_copy(update={"options": request_.options.model_copy(update=options)})
    run_stages(streamed)
    (kept,), (other,) = store.products("heads"), streamed.store().products("heads")
    assert other.facts == kept.facts
