"""Passes through the network on a Dask cluster: a block is a call, done whole by one worker.

The process of the run holds the leases and hands out blocks; a worker loads the network once, and
writes what it made of a block under the run's leases. What comes back is a few numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soapworks.errors import EngineError, MissingProductError
from soapworks.images.listing import open_folder
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.writers import AttemptWriter
from soapworks.tasks.events import Advance, Event, Notice, emit, listening
from soapworks.tasks.executors.cluster import Cluster
from soapworks.tasks.executors.worker import limit_blas, n_threads, network_alone, threads_in
from soapworks.tasks.passes.loading import batch_size, load_backbone, open_source
from soapworks.tasks.passes.network import Finish, lacking_blocks, part_name
from soapworks.tasks.plan.recipes import CheckpointPlan
from soapworks.tasks.plan.request import PlannedRequest, plan_of


@dataclass(frozen=True)
class Passed:
    """A worker's report of a block."""

    n_images: int
    notices: tuple[Notice, ...]
    """Notices for the user."""


@dataclass(frozen=True)
class BlockPass:
    """The pass of one block, as a worker does it: plain data."""

    request: PlannedRequest
    recipes: Mapping[str, FeaturesRecipe]
    """Features of each layer."""
    writers: Mapping[str, AttemptWriter]
    """Writer of each layer's product."""
    finish: Finish

    def __call__(self, todo: tuple[int, tuple[str, ...]]) -> Passed:
        """Do a block, given as its number and the layers that lack it."""
        number, layers = todo
        start, stop = self._recipe.span(number)
        events: list[Event] = []
        with listening(events.append):
            self._do(number, self._still_lacking(number, layers))
        return Passed(stop - start, tuple(event for event in events if isinstance(event, Notice)))

    @property
    def _recipe(self) -> FeaturesRecipe:
        """Any of the recipes: input and blocks are the same for all."""
        return next(iter(self.recipes.values()))

    def _still_lacking(self, number: int, layers: tuple[str, ...]) -> tuple[str, ...]:
        """Leave out layers that a worker finished before it died without a report.

        Layers are finished in order, so one look is mostly enough.
        """
        writers = self.writers
        if not writers[layers[0]].has_part(part_name(number)):
            return layers
        return tuple(layer for layer in layers if not writers[layer].has_part(part_name(number)))

    def _do(self, number: int, layers: tuple[str, ...]) -> None:
        from soapworks.tasks.passes.forward import forward_blocks

        if not layers:
            return
        limit_blas()
        # The threads that read are the worker's own.
        options = self.request.options.model_copy(update={"workers": n_threads()})
        request = self.request.model_copy(update={"options": options})
        plan = seen_from_here(request)
        source = open_source(request, plan, self._recipe)
        need = self.finish.need
        with network_alone():
            backbone = load_backbone(request, plan)
            on_device = need is not None and backbone.device.type == "cuda"
            blocks = forward_blocks(
                backbone,
                {number: layers},
                source,
                self.recipes,
                batch_size(request),
                on_device=on_device,
            )
            ((_, features),) = blocks
        threads = 1 if on_device or need is None else threads_in(need)
        self.finish(number, features, self.writers, threads)


@dataclass(frozen=True)
class ClusterNetwork:
    """A network on the workers of a cluster; implements ``network.Network``."""

    cluster: Cluster
    request: PlannedRequest

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        plan = plan_of(self.request)
        return plan.identity.grid_at(plan.preprocessing.size)

    def n_channels(self, layer: str) -> int:
        """Return the number of channels of a layer."""
        return plan_of(self.request).identity.n_channels(layer)

    def for_each_block(
        self,
        writers: Mapping[str, AttemptWriter],
        recipes: Mapping[str, FeaturesRecipe],
        finish: Finish,
        advance: Advance,
    ) -> None:
        """Compute and finish all blocks of a segment that some layer lacks, on the workers."""
        todo = lacking_blocks(writers, next(iter(recipes.values())), advance)
        call = BlockPass(_for_workers(self.request), dict(recipes), dict(writers), finish)
        resources = self.cluster.resources(self.request.options.device)
        for passed in self.cluster.as_done(call, list(todo.items()), resources):
            for notice in passed.notices:
                emit(notice)
            advance(passed.n_images)


def seen_from_here(request: PlannedRequest) -> CheckpointPlan:
    """Return the plan of a request, on a worker.

    Raises
    ------
    EngineError
        Where the worker does not see the store, the images or the checkpoint.
    """
    try:
        plan = plan_of(request)
    except MissingProductError as error:
        raise _unseen("store", request.options.store) from error
    for what, address in (("images", request.images), ("checkpoint", request.checkpoint)):
        if Path(address).is_absolute() and not Path(address).exists():
            raise _unseen(what, address)
    return plan


def _unseen(what: str, address: str) -> EngineError:
    from distributed import get_worker

    return EngineError(
        f"the Dask worker {get_worker().address} does not see the {what} at {address}: put them "
        "where all workers reach them (a shared folder of the same path, or s3://bucket/prefix)."
    )


def _elsewhere(checkpoint: str, asked: str) -> str:
    """Return a checkpoint's identifier as it is meant in any folder.

    A timm name goes before a folder of the same name, whose path was remembered.
    """
    from soapworks.backbones.architectures import is_timm_name
    from soapworks.remote import is_url

    if is_url(checkpoint):
        return checkpoint
    is_bare = Path(checkpoint).name == checkpoint and asked != checkpoint
    return checkpoint if is_bare and is_timm_name(checkpoint) else asked


def _for_workers(request: PlannedRequest) -> PlannedRequest:
    """Return a request that means the same in another folder, on another machine."""
    options = request.options.model_copy(
        update={"store": Location.parse(request.options.store).url, "dask": None}
    )
    return request.model_copy(
        update={
            "images": open_folder(request.images).url,
            "checkpoint": _elsewhere(request.checkpoint, plan_of(request).identity.asked),
            "options": options,
        }
    )
