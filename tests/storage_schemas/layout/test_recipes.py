"""Recipes: what changes a key and what does not."""

import hashlib

import pytest
from pydantic import ValidationError

from soapworks.storage_schemas.layout.recipes import (
    HeadRecipe,
    ImagesRecipe,
    MomentsRecipe,
    Subject,
)

SUBJECT = Subject(architecture="vit_tiny_patch16_224", weights="a" * 64, layer="blocks.3.attn.k")


def moments(**changes: object) -> MomentsRecipe:
    fields = {"subject": SUBJECT, "features": "b" * 64, "precision": "float32"}
    return MomentsRecipe(**{**fields, **changes})


def test_key_is_the_digest_of_sorted_compact_json() -> None:
    recipe = ImagesRecipe(segments=("c" * 64,), n_images=3)
    text = (
        '{"kind":"images","n_images":3,"segments":["' + "c" * 64 + '"],"unreadable":[],"version":1}'
    )
    assert recipe.canonical_json() == text.encode()
    assert recipe.key == hashlib.sha256(text.encode()).hexdigest()


def test_equal_recipes_have_equal_keys_and_addresses() -> None:
    assert (moments().key, moments().slug) == (moments().key, moments().slug)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "float64"},
        {"features": "d" * 64},
        {"subject": SUBJECT.model_copy(update={"layer": "norm"})},
        {"subject": SUBJECT.model_copy(update={"weights": "e" * 64})},
        {"subject": SUBJECT.model_copy(update={"model_args": (("depth", "6"),)})},
    ],
)
def test_every_field_changes_the_key(change: dict[str, object]) -> None:
    assert moments(**change).key != moments().key


def test_unknown_fields_are_errors() -> None:
    with pytest.raises(ValidationError, match="mu"):
        moments(mu=2)


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="features"):
        moments(features="../../etc")


def test_slug_is_a_plain_name() -> None:
    subject = Subject(architecture="A/../b c", weights="a" * 64, layer="blocks.3")
    assert moments(subject=subject).slug == "a_.._b_c-blocks.3"


def test_mu_as_number_and_as_word_are_different_heads() -> None:
    fields = {"subject": SUBJECT, "pca": "b" * 64, "scores": "c" * 64}
    assert HeadRecipe(**fields, mu=2.0).key != HeadRecipe(**fields, mu="threshold").key
