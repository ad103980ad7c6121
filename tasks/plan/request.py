"""A request for scores, in plain data, and the plan that follows from it.

Prefect tasks are given a request and give back keys; each rebuilds the plan it needs from what the
store knows, so any process that reaches the store can do any stage.
"""

from functools import lru_cache

from soapworks.names import one_line
from soapworks.storage_schemas.layout.manifest import Manifest
from soapworks.storage_schemas.store import Store
from soapworks.tasks.inputs.checkpoint import Identity, read_identity
from soapworks.tasks.inputs.images import read_manifest
from soapworks.tasks.plan.precision import float32_layers, plan_from_store, recorded_faults
from soapworks.tasks.plan.recipes import CheckpointPlan, plan_checkpoint
from soapworks.tasks.settings import RunOptions, ScoreSettings, Settings


class IndexRequest(Settings):
    """Which images, and how they are read."""

    images: str
    """Folder of images, as a path or URL."""
    settings: ScoreSettings = ScoreSettings()
    options: RunOptions = RunOptions()

    @property
    def folder_label(self) -> str:
        """The folder as it is shown."""
        return one_line(self.images)

    def store(self) -> Store:
        """Return the store of the request."""
        return Store(self.options.store, lease_seconds=self.options.lease_seconds)


class ScoreRequest(IndexRequest):
    """What to score, on which images, how."""

    checkpoint: str
    """Identifier of the checkpoint."""
    architecture: str | None = None
    """timm's name of the architecture, where the checkpoint does not name it."""

    @property
    def asked(self) -> tuple[str, str | None, str | None]:
        """Identifier, architecture and part of the checkpoint."""
        return self.checkpoint, self.architecture, self.settings.part

    @property
    def label(self) -> str:
        """The checkpoint as it is shown."""
        return one_line(self.checkpoint)

    def planned(self, manifest: str, identity: str) -> "PlannedRequest":
        """Return the request with the keys of its manifest and its checkpoint's identity.

        Raises
        ------
        RoundingError
            Where float16 is asked for and is known not to hold a layer.
        """
        given = {name: getattr(self, name) for name in ScoreRequest.model_fields}
        store = self.store()
        plan = plan_from_store(store, *_inputs(store, manifest, identity), self.settings)
        return PlannedRequest(
            **given, manifest=manifest, identity=identity, float32_layers=float32_layers(plan)
        )


class PlannedRequest(ScoreRequest):
    """A request whose images are indexed and whose checkpoint is identified."""

    manifest: str
    """Key of the images' manifest."""
    identity: str
    """Key of the checkpoint's identity."""
    float32_layers: tuple[str, ...]
    """Layers whose features are stored in float32, as far as is known."""

    def replanned(self) -> "PlannedRequest":
        """Return the request with the layers added that passes found to need float32."""
        faults = recorded_faults(self.store(), plan_of(self))
        layers = (*self.float32_layers, *faults)
        return self.model_copy(update={"float32_layers": layers}) if faults else self


@lru_cache(maxsize=4)
def plan_of(request: PlannedRequest) -> CheckpointPlan:
    """Return the plan of a request.

    Raises
    ------
    MissingProductError
        Where identity or manifest are not in the store.
    """
    identity, manifest = _inputs(request.store(), request.manifest, request.identity)
    return plan_checkpoint(identity, manifest, request.settings, request.float32_layers)


def _inputs(store: Store, manifest: str, identity: str) -> tuple[Identity, Manifest]:
    found = read_identity(store.product(identity))
    return found, read_manifest(store.product(manifest))
