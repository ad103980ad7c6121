"""Repair damaged products: withdraw them, and make again what the store alone suffices for.

A withdrawn product is not published any more, so the next run that needs it makes it again, from
all parts of it that are whole. Moments, components, responses, scores and heads are made again on
the spot where their inputs are in the store; features need images and weights.
"""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from soapworks.errors import DamagedProductError, SoapworksError, StoreError
from soapworks.storage_schemas.layout.kinds import RECIPES
from soapworks.storage_schemas.layout.names import MAX_DOCUMENT_BYTES, decode
from soapworks.storage_schemas.layout.recipes import Recipe, input_keys
from soapworks.storage_schemas.publishing.products import Product
from soapworks.storage_schemas.publishing.records import RECIPE
from soapworks.storage_schemas.store import Store
from soapworks.tasks.events import stage
from soapworks.tasks.maintenance.verify import Finding
from soapworks.tasks.stages.rebuild import REBUILDABLE, Inputs, inputs_of, rebuild

_BLOCK = re.compile(r"attempt-[^/]+/(?:arrays\.zarr/features/c/|parts/block-0*)(\d+)[/.]")


@dataclass(frozen=True)
class Repair:
    """What became of a damaged product."""

    address: str
    """Address within the store."""
    outcome: Literal["remade", "withdrawn", "replaced", "kept", "left"]
    """Made again here; to be made again by the next run; made again by another; whole, but made
    from an input that came out with other bytes; still damaged."""
    note: str = ""
    """What is to be run, or why it was left; a sentence's end."""


def repair(store: Store, findings: Sequence[Finding], *, memory: int, workers: int) -> list[Repair]:
    """Withdraw damaged products and make them again where the store alone suffices.

    What is certain alone is repaired: a file that could not be read because rights or the
    connection are missing is left. A product that comes out with other bytes than before (made
    on another machine, by other versions: rounding) would not go with what was made from it, so
    that is made again as well.

    Parameters
    ----------
    store
        The store.
    findings
        What :func:`soapworks.tasks.maintenance.verify.verify` found.
    memory, workers
        Limit of the statistics, bytes, and threads.
    """
    inputs, commands, done = Inputs(store), Commands(store), []
    changed: set[str] = set()
    by_kind: dict[str, list[Finding]] = {kind: [] for kind in RECIPES}
    for finding in findings:
        by_kind.setdefault(finding.location.parent.name, []).append(finding)
    for kind, some in by_kind.items():
        known = {finding.location for finding in some}
        stale = _made_from(store, kind, changed) if changed else []
        some += [Finding(p.location, (), p) for p in stale if p.location not in known]
        for finding in some:
            with stage("repair", finding.address, 1, "products"):
                outcome, new = _repair(
                    store, inputs, commands, finding, memory=memory, workers=workers
                )
            done.append(outcome)
            old = finding.product
            if new and old and new.record["files"] != old.record["files"]:
                changed.add(new.key)
    return done


def _repair(
    store: Store,
    inputs: Inputs,
    commands: "Commands",
    finding: Finding,
    *,
    memory: int,
    workers: int,
) -> tuple[Repair, Product | None]:
    def ended(outcome: Any, note: str = "") -> tuple[Repair, None]:
        return Repair(finding.address, outcome, note), None

    if finding.damages and not any(damage.certain for damage in finding.damages):
        return ended("left", "mend the access to it, then verify again")
    fields = _recipe_fields(finding)
    recipe = _as_recipe(finding, fields)
    command = commands.score(fields)
    if not finding.damages and not _can_be_remade(inputs, recipe):
        return ended("kept", "it was made from an input that came out with other rounding")
    try:
        if not store.withdraw(finding.product or finding.location):
            return ended("replaced")
    except StoreError as error:
        return ended("left", str(error))
    if recipe is None or not isinstance(recipe, REBUILDABLE):
        return ended("withdrawn", _rest(finding, fields, command))
    try:
        product = rebuild(store, inputs, recipe, memory=memory, workers=workers)
    except SoapworksError as error:
        why = f"cannot be rebuilt from the store alone ({error})"
        return ended("withdrawn", f"{why}: {command}")
    return Repair(finding.address, "remade"), product


def _can_be_remade(inputs: Inputs, recipe: Recipe | None) -> bool:
    try:
        found = inputs_of(inputs, recipe) if recipe else {}
    except StoreError:
        return False
    return bool(found) and not any(p.missing() for some in found.values() for p in some)


def _recipe_fields(finding: Finding) -> dict[str, Any]:
    """Return the recipe's fields as they are stored, empty where they are damaged."""
    try:
        if finding.product is not None:
            return finding.product.recipe
        file = finding.location / RECIPE
        data = file.read_bytes(limit=MAX_DOCUMENT_BYTES)
        if finding.location.name.endswith(f"-{hashlib.sha256(data).hexdigest()[:12]}"):
            return decode(data, file)
    except StoreError:
        pass
    return {}


def _as_recipe(finding: Finding, fields: Mapping[str, Any]) -> Recipe | None:
    model = RECIPES.get(finding.location.parent.name)
    if model is None or not fields:
        return None
    try:
        return model(**{name: value for name, value in fields.items() if name != "kind"})
    except ValidationError:
        return None  # of another version than this soapworks makes


def _made_from(store: Store, kind: str, keys: set[str]) -> list[Product]:
    found = []
    for product in store.products(kind):
        try:
            if input_keys(product.recipe) & keys:
                found.append(product)
        except DamagedProductError:
            continue  # among the findings, or not asked for
    return found


def _rest(finding: Finding, fields: Mapping[str, Any], command: str) -> str:
    """Say what is lost of a product that was withdrawn, and what makes it again."""
    kind = finding.location.parent.name
    if kind == "images":
        return "the next run reads its images again"
    if kind == "checkpoints":
        return "the next run digests its weights again"
    if kind != "features" or not fields or finding.product is None:
        return f"what is whole of it is kept; the next run that needs it makes it again: {command}"
    block, n_images = fields["block_images"], fields["input"]["n_images"]
    lost = {int(m[1]) for d in finding.damages if (m := _BLOCK.match(d.path))}
    passes = sum(min(block, n_images - number * block) for number in lost)
    return (
        f"{len(lost)} of {-(-n_images // block)} blocks are lost; the next run that needs it makes "
        f"{passes} forward passes: {command}"
    )


class Commands:
    """What was run to fill a store, as far as its checkpoints and manifests tell.

    Parameters
    ----------
    store
        The store; looked through once, here.
    """

    def __init__(self, store: Store) -> None:
        self._store = store.url
        self._checkpoints = {
            str(product.facts.get("digest")): product.facts
            for product in store.products("checkpoints")
        }
        self._folders: dict[str, str] = {}
        for product in sorted(store.products("images"), key=lambda p: str(p.record["created"])):
            try:
                segments = product.recipe["segments"]
            except DamagedProductError:
                segments = []
            folder = str(product.facts.get("folder"))
            self._folders |= dict.fromkeys([*segments, folder], folder)

    def score(self, recipe: Mapping[str, Any]) -> str:
        """Return the ``soapworks score`` call behind a product.

        Parameters
        ----------
        recipe
            The product's recipe as it is stored; empty where it is lost.
        """
        subject = recipe.get("subject", {})
        checkpoint = self._checkpoints.get(subject.get("weights", ""), {})
        words = [
            *("soapworks", "score", str(checkpoint.get("asked", "CHECKPOINT"))),
            *("--images", self._folder(recipe.get("input", {}).get("images"))),
        ]
        if checkpoint.get("asked_architecture"):
            words += ["--architecture", str(checkpoint["asked_architecture"])]
        if checkpoint.get("asked_part"):
            words += ["--part", str(checkpoint["asked_part"])]
        if "layer" in subject:
            words += ["--layers", subject["layer"]]
        return f"{shlex.join([*words, '--store', self._store])} with its settings of before"

    def _folder(self, segment: str | None) -> str:
        """Return the newest folder that has a segment, or the only one there is."""
        if segment in self._folders:
            return self._folders[segment]
        folders = set(self._folders.values())
        return folders.pop() if len(folders) == 1 else "FOLDER"
