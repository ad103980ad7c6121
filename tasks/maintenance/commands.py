"""The command that makes a product, for people who have to run it again."""

import shlex
from collections.abc import Mapping
from typing import Any

from soapworks.errors import DamagedProductError
from soapworks.storage_schemas.store import Store


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
        if "layer" in subject:
            words += ["--layers", subject["layer"]]
        return f"{shlex.join([*words, '--store', self._store])} with its settings of before"

    def _folder(self, segment: str | None) -> str:
        """Return the newest folder that has a segment, or the only one there is."""
        if segment in self._folders:
            return self._folders[segment]
        folders = set(self._folders.values())
        return folders.pop() if len(folders) == 1 else "FOLDER"
