"""What evaluations say of heads: beside the raw features of their layer, with intervals."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from soapworks.errors import DamagedProductError, StoreError
from soapworks.evaluation.intervals import Comparison, compare_each
from soapworks.names import one_line
from soapworks.storage_schemas.layout.evaluations import (
    VALUES_TABLE,
    EvaluationRecipe,
    read_values,
)
from soapworks.storage_schemas.layout.recipes import Subject
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import Notice, emit
from soapworks.tasks.reports.leaderboard import suppression
from soapworks.tasks.reports.ranking import layer_order

Verdict = Literal["helps", "hurts", "cannot be told"]


@dataclass(frozen=True)
class EvaluationRow:
    """One measure of one head, beside the raw features of its layer."""

    checkpoint: str
    """Identifier of the checkpoint, as its newest identity has it."""
    architecture: str
    layer: str
    task: str
    settings: str
    """Settings of the task, in words."""
    measure: str
    head: str
    """Key of the head."""
    how: str
    """How the head was made, in words; empty where the head is gone."""
    raw: float
    """Mean over images without the head."""
    value: float
    """Mean over images with it."""
    difference: float
    """``value`` less ``raw``."""
    low: float | None
    high: float | None
    """Ends of the 95 % interval of the difference; None below two independent images."""
    verdict: Verdict
    n_images: int
    """Images, or pairs of images, that both were measured on."""
    n_groups: int
    """Independent groups of them."""
    n_needed: int | None
    """Groups with which half this difference could be seen; None where that is not known."""
    data: str
    """Digest of the labelled images."""
    folder: str
    """Their folder when they were judged."""
    comparison: str
    """12 hex digits, equal where task, settings, data and preprocessing are equal."""
    made: str
    """When the head was judged, UTC."""
    evaluation: str
    """Key of the evaluation."""


def evaluation_rows(store: Store, subject: Subject | None = None) -> list[EvaluationRow]:
    """Return what a store's evaluations say, the layers of a model in forward order.

    Parameters
    ----------
    store
        The store.
    subject
        A model, whose layers are all looked at (the subject's own layer does not matter); every
        model by default.

    Returns
    -------
    list of EvaluationRow
        Ordered by model, task, settings, data, measure, layer and head.

    Raises
    ------
    StoreError
        If the store cannot be read. Evaluations that are damaged are left out, with a notice.
    """
    found = []
    for product in store.products(EvaluationRecipe.kind):
        try:
            recipe = _recipe_of(product)
        except StoreError as error:
            emit(Notice(f"{product.address} is left out: {error}"))
            continue
        if subject is None or _model(recipe.subject) == _model(subject):
            found.append((recipe, product))
    return rows_of(store, found)


def rows_of(
    store: Store, evaluations: Iterable[tuple[EvaluationRecipe, Product]]
) -> list[EvaluationRow]:
    """Return a row per (head, measure) of some evaluations that has its raw counterpart.

    Parameters
    ----------
    store
        Where heads and checkpoints are, for their names.
    evaluations
        Recipe and product of each, raw ones among them.
    """
    pairs: dict[str, _Pairs] = {}
    raw: dict[str, dict[str, _Measured]] = {}
    judged: list[tuple[EvaluationRecipe, Product, dict[str, _Measured]]] = []
    for recipe, product in evaluations:
        try:
            measured = _read(product)
        except StoreError as error:
            emit(Notice(f"{product.address} is left out: {error}"))
            continue
        if recipe.head is None:
            raw[recipe.key] = measured
        else:
            judged.append((recipe, product, measured))
    for recipe, product, measured in judged:
        before = raw.get(recipe.model_copy(update={"head": None}).key)
        for measure, after in measured.items():
            if before is None or measure not in before:
                continue
            both = after.assign(raw=before[measure]["value"]).dropna()
            if not len(both):
                continue
            groups = both["group"].tolist()
            same = json.dumps([both.index.tolist(), groups])
            pairs.setdefault(same, _Pairs(groups, [])).add((recipe, product, measure, both))
    names = _Names(store)
    rows = [row for one in pairs.values() for row in one.rows(names)]
    return sorted(rows, key=_order)


_Measured = pd.DataFrame
"""Values of one measure: columns group and value, by image."""


@dataclass(frozen=True)
class _Pairs:
    """Raw and projected values of the same images: their groups are drawn once."""

    groups: list[str]
    pairs: list[tuple[EvaluationRecipe, Product, str, pd.DataFrame]]

    def add(self, pair: tuple[EvaluationRecipe, Product, str, pd.DataFrame]) -> None:
        self.pairs.append(pair)

    def rows(self, names: "_Names") -> list[EvaluationRow]:
        comparisons: Sequence[Comparison | None] = [None] * len(self.pairs)
        n_groups = len(set(self.groups))
        if n_groups > 1:
            before, after = (
                [both[column].to_numpy() for *_, both in self.pairs] for column in ("raw", "value")
            )
            comparisons = compare_each(before, after, groups=self.groups)
        return [
            _row(recipe, product, measure, both, found, n_groups, names)
            for (recipe, product, measure, both), found in zip(self.pairs, comparisons, strict=True)
        ]


def _row(
    recipe: EvaluationRecipe,
    product: Product,
    measure: str,
    both: pd.DataFrame,
    found: Comparison | None,
    n_groups: int,
    names: "_Names",
) -> EvaluationRow:
    raw, value = float(both["raw"].mean()), float(both["value"].mean())
    return EvaluationRow(
        checkpoint=names.checkpoint(recipe.subject),
        architecture=recipe.subject.architecture,
        layer=recipe.subject.layer,
        task=recipe.task,
        settings=in_words(recipe.settings),
        measure=measure,
        head=str(recipe.head),
        how=names.head(str(recipe.head)),
        raw=raw,
        value=value,
        difference=found.difference if found else value - raw,
        low=found.low if found else None,
        high=found.high if found else None,
        verdict=found.verdict if found else "cannot be told",
        n_images=len(both),
        n_groups=n_groups,
        n_needed=found.n_needed if found else None,
        data=recipe.data,
        folder=str(product.facts.get("folder", "")),
        comparison=comparison_of(recipe),
        made=str(product.record["created"]),
        evaluation=product.key,
    )


def in_words(settings: Iterable[tuple[str, str]]) -> str:
    """Return the settings of a task in words; values are JSON."""
    words = []
    for name, value in settings:
        plain = json.loads(value)
        text = ", ".join(map(str, plain)) if isinstance(plain, list) else str(plain)
        if plain not in (None, [], ""):
            words.append(f"{name.replace('_', ' ')} {text}")
    return one_line("; ".join(words))


def comparison_of(recipe: EvaluationRecipe) -> str:
    """Return 12 hex digits that are equal where heads were judged alike."""
    alike = recipe.model_dump(mode="json", include={"task", "settings", "data", "train", "input"})
    return hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()[:12]


class _Names:
    """What checkpoints and heads are called; each is looked up once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._checkpoints: dict[str, str] | None = None
        self._heads: dict[str, str] = {}

    def checkpoint(self, subject: Subject) -> str:
        if self._checkpoints is None:
            products = self._store.products("checkpoints")
            found = sorted(products, key=lambda one: str(one.record["created"]))
            self._checkpoints = {
                str(one.facts.get("digest")): str(one.facts.get("identifier")) for one in found
            }
        return self._checkpoints.get(subject.weights, subject.architecture)

    def head(self, key: str) -> str:
        if key not in self._heads:
            try:
                self._heads[key] = suppression(self._store.product(key).recipe)
            except (StoreError, LookupError, TypeError):
                self._heads[key] = ""
        return self._heads[key]


def _recipe_of(product: Product) -> EvaluationRecipe:
    fields: Mapping[str, Any] = {k: v for k, v in product.recipe.items() if k != "kind"}
    try:
        return EvaluationRecipe(**fields)
    except ValueError as error:
        raise DamagedProductError.of(
            product.address, "its recipe is not of this version"
        ) from error


def _read(product: Product) -> dict[str, _Measured]:
    table = read_values(product.read(VALUES_TABLE), n_rows=product.facts.get("n_rows"))
    return {
        str(measure): rows.set_index("image")[["group", "value"]]
        for measure, rows in table.groupby("measure", sort=False)
    }


def _model(subject: Subject) -> tuple[Any, ...]:
    return subject.architecture, subject.model_args, subject.weights


def _order(row: EvaluationRow) -> tuple[Any, ...]:
    about = (row.checkpoint, row.task, row.settings, row.comparison, row.measure)
    return (*about, layer_order(row.layer), row.how, row.head)
