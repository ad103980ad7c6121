"""Passes through a network in this process."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from soapworks.storage_schemas.layout.recipes import FeaturesRecipe
from soapworks.storage_schemas.publishing.writers import AttemptWriter
from soapworks.tasks.events import Advance
from soapworks.tasks.passes.loading import BatchSize, batch_size, load_backbone, open_source
from soapworks.tasks.passes.network import Finish, lacking_blocks
from soapworks.tasks.passes.sources import ImageSource
from soapworks.tasks.plan.request import PlannedRequest, plan_of

if TYPE_CHECKING:
    from soapworks.backbones import Backbone


@dataclass(frozen=True)
class LocalNetwork:
    """A network in this process; implements ``network.Network``."""

    backbone: "Backbone"
    """The network, on its device."""
    open_source: Callable[[FeaturesRecipe], ImageSource]
    """Opens the images of a segment."""
    batch: BatchSize
    """Images per forward pass."""
    memory: int
    """Bytes that the process may use for statistics."""
    workers: int
    """Threads wanted for statistics."""

    @classmethod
    def of(cls, request: PlannedRequest) -> "LocalNetwork":
        """Load the network of a request."""
        plan, options = plan_of(request), request.options
        backbone = load_backbone(request, plan)
        source = partial(open_source, request, plan)
        return cls(backbone, source, batch_size(request), options.memory, options.workers)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.backbone.grid

    def n_channels(self, layer: str) -> int:
        """Return the number of channels of a layer."""
        return self.backbone.n_channels(layer)

    def for_each_block(
        self,
        writers: Mapping[str, AttemptWriter],
        recipes: Mapping[str, FeaturesRecipe],
        finish: Finish,
        advance: Advance,
    ) -> None:
        """Compute and finish all blocks of a segment that some layer lacks."""
        from soapworks.tasks.passes.forward import forward_blocks  # imports torch

        recipe = next(iter(recipes.values()))
        threads = 1
        if finish.need is not None:
            threads = finish.need.threads(self.memory, self.workers, "raise --memory")
        todo = lacking_blocks(writers, recipe, advance)
        # On a GPU statistics are computed there, one layer after another.
        on_device = finish.need is not None and self.backbone.device.type != "cpu"
        blocks = forward_blocks(
            self.backbone,
            todo,
            self.open_source(recipe),
            recipes,
            self.batch,
            on_device=on_device,
        )
        writing: Future[None] | None = None
        with ThreadPoolExecutor(1, "write") as pool:
            for number, features in blocks:
                if finish.need is not None:
                    finish(number, features, writers, 1 if on_device else threads)
                    features.clear()  # before the next block is put together
                else:
                    # One block may be in writing while the next is computed: memory is two blocks.
                    if writing is not None:
                        writing.result()
                    writing = pool.submit(finish, number, features, writers, threads)
                start, stop = recipe.span(number)
                advance(stop - start)
            if writing is not None:
                writing.result()
