"""Passes through the network on a Dask cluster: a block is a call, done whole by one worker.

The process of the run holds the leases and hands out blocks; a worker loads the network once, and
writes what it made of a block under the run's leases. What comes back is a few numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from soapworks.errors import EngineError, MissingProductError
from soapworks.images.listing import open_folder
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.writers import AttemptWriter
from soapworks.tasks.events import Advance, Event, Notice, emit, listening
from soapworks.tasks.executors.cluster import Cluster
from soapworks.tasks.executors.worker import limit_blas, n_threads, network_alone
from soapworks.tasks.passes.batches import block_spans
from soapworks.tasks.passes.loading import batch_size, load_backbone, open_source
from soapworks.tasks.passes.local import lacking_blocks, part_name
from soapworks.tasks.plan.recipes import CheckpointPlan
from soapworks.tasks.plan.request import ScoreRequest, plan_of

if TYPE_CHECKING:
    import torch


class Finish(Protocol):
    """What is made of a block's features; picklable."""

    on_device: bool
    """Whether features are wanted where they were computed; else on the host."""

    def __call__(
        self,
        number: int,
        features: "dict[str, torch.Tensor]",
        writers: Mapping[str, AttemptWriter],
    ) -> None:
        """Write what a block's features (image, row, column, channel) of some layers give."""


@dataclass(frozen=True)
class Passed:
    """What a worker tells of a block."""

    n_images: int
    notices: tuple[Notice, ...]
    """What a person should know."""


@dataclass(frozen=True)
class BlockPass:
    """The pass of one block, as a worker does it: plain data."""

    request: ScoreRequest
    recipe: FeaturesRecipe
    """Any of the layers' features."""
    writers: Mapping[str, AttemptWriter]
    """Of what is made, by layer."""
    finish: Finish

    def __call__(self, todo: tuple[int, tuple[str, ...]]) -> Passed:
        """Do a block, given as its number and the layers that lack it."""
        number, layers = todo
        ((start, stop),) = block_spans(
            self.recipe.input.n_images, self.recipe.block_images, [number]
        )
        told: list[Event] = []
        with listening(told.append):
            self._do(number, self._still_lacking(number, layers))
        return Passed(stop - start, tuple(event for event in told if isinstance(event, Notice)))

    def _still_lacking(self, number: int, layers: tuple[str, ...]) -> tuple[str, ...]:
        """Leave out what a worker finished that died before it told so.

        Layers are finished in order, so mostly one look is enough.
        """
        writers = self.writers
        if not writers[layers[0]].has_part(part_name(number)):
            return layers
        return tuple(la for la in layers if not writers[la].has_part(part_name(number)))

    def _do(self, number: int, layers: tuple[str, ...]) -> None:
        from soapworks.tasks.passes.forward import forward_blocks

        if not layers:
            return
        limit_blas()
        # The threads that read are the worker's own.
        options = self.request.options.model_copy(update={"workers": n_threads()})
        request = self.request.model_copy(update={"options": options})
        plan = seen_from_here(request)
        source = open_source(request, plan, self.recipe)
        with network_alone():
            backbone = load_backbone(request, plan)
            blocks = forward_blocks(
                backbone,
                {number: layers},
                source,
                self.recipe,
                batch_size(request),
                on_device=self.finish.on_device and backbone.device.type == "cuda",
            )
            ((_, features),) = blocks
        self.finish(number, features, self.writers)


@dataclass(frozen=True)
class ClusterNetwork:
    """A network on the workers of a cluster; ``local.Network`` is one in this process."""

    cluster: Cluster
    request: ScoreRequest
    plan: CheckpointPlan

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.plan.identity.grid_at(self.plan.preprocessing.size)

    def n_channels(self, layer: str) -> int:
        """Return the number of channels of a layer."""
        return self.plan.identity.n_channels(layer)

    def do_blocks(
        self,
        writers: Mapping[str, AttemptWriter],
        recipe: FeaturesRecipe,
        finish: Finish,
        advance: Advance,
    ) -> None:
        """Do all blocks of a segment that some layer lacks, on the workers.

        Parameters
        ----------
        writers
            Of what is made, by layer.
        recipe
            Any of the layers' features.
        finish
            What is made of a block's features.
        advance
            Told how many more images are done.

        Raises
        ------
        EngineError
            Where the cluster fails, or its workers do not see what this process sees.
        """
        todo = lacking_blocks(writers, recipe, advance)
        call = BlockPass(_for_workers(self.request, self.plan), recipe, dict(writers), finish)
        resources = self.cluster.resources(self.request.options.device)
        for passed in self.cluster.as_done(call, list(todo.items()), resources):
            for notice in passed.notices:
                emit(notice)
            advance(passed.n_images)


def seen_from_here(request: ScoreRequest) -> CheckpointPlan:
    """Return the plan of a request, on a worker.

    Raises
    ------
    EngineError
        Where the worker does not see the store, the photographs or the checkpoint.
    """
    try:
        plan = plan_of(request)
    except MissingProductError as error:
        raise _unseen("store", request.options.store) from error
    for what, address in (("photographs", request.images), ("checkpoint", request.checkpoint)):
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

    is_bare = Path(checkpoint).name == checkpoint and asked != checkpoint
    return checkpoint if is_bare and is_timm_name(checkpoint) else asked


def _for_workers(request: ScoreRequest, plan: CheckpointPlan) -> ScoreRequest:
    """Return a request that means the same in another folder, on another machine."""
    options = request.options.model_copy(
        update={"store": Location.parse(request.options.store).url, "dask": None}
    )
    return request.model_copy(
        update={
            "images": open_folder(request.images).url,
            "checkpoint": _elsewhere(request.checkpoint, plan.identity.asked),
            "options": options,
        }
    )
