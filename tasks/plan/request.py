"""A request for scores, in plain data, and the plan that follows from it.

Prefect tasks are given a request and give back keys; each rebuilds the plan it needs from what the
store knows, so any process that reaches the store can do any stage.
"""

from functools import lru_cache

from soapworks.storage_schemas.store import Store
from soapworks.tasks.inputs.checkpoint import read_identity
from soapworks.tasks.inputs.images import read_manifest
from soapworks.tasks.plan.recipes import CheckpointPlan, plan_checkpoint
from soapworks.tasks.settings import RunOptions, ScoreSettings, Settings


class IndexRequest(Settings):
    """Whose photographs, and how they are read."""

    images: str
    """Folder of photographs, as a path or URL."""
    settings: ScoreSettings = ScoreSettings()
    options: RunOptions = RunOptions()

    def store(self) -> Store:
        """Return the store of the request."""
        return Store(self.options.store, lease_seconds=self.options.lease_seconds)


class ScoreRequest(IndexRequest):
    """What to score, with whose photographs, how."""

    checkpoint: str
    """Identifier of the checkpoint."""
    architecture: str | None = None
    """timm's name of the architecture, where the checkpoint does not name it."""

    @property
    def asked(self) -> tuple[str, str | None, str | None]:
        """Identifier, architecture and part of the checkpoint."""
        return self.checkpoint, self.architecture, self.settings.part

    def planned(self, manifest: str, identity: str) -> "PlannedRequest":
        """Return the request with the keys of its manifest and its checkpoint's identity."""
        given = {name: getattr(self, name) for name in ScoreRequest.model_fields}
        return PlannedRequest(**given, manifest=manifest, identity=identity)


class PlannedRequest(ScoreRequest):
    """A request whose images are indexed and whose checkpoint is identified."""

    manifest: str
    """Key of the images' manifest."""
    identity: str
    """Key of the checkpoint's identity."""


@lru_cache(maxsize=4)
def plan_of(request: PlannedRequest) -> CheckpointPlan:
    """Return the plan of a request.

    Raises
    ------
    MissingProductError
        Where identity or manifest are not in the store.
    """
    store = request.store()
    identity = read_identity(store.product(request.identity))
    manifest = read_manifest(store.product(request.manifest))
    return plan_checkpoint(identity, manifest, request.settings)
