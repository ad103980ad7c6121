"""Hold the lease on a checkpoint that is due, and remember each step of its processing at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from soapworks.errors import InputError, StoreError
from soapworks.images.listing import open_folder
from soapworks.names import one_line
from soapworks.storage_schemas.layout.layer_summary import LayerSummary
from soapworks.storage_schemas.leasing import leases
from soapworks.storage_schemas.locations.location import Location
from soapworks.storage_schemas.publishing.products import read_product
from soapworks.tasks.inputs.images import known_images
from soapworks.tasks.maintenance.retention import weights_of
from soapworks.tasks.watch.listing import list_checkpoints
from soapworks.tasks.watch.rules import (
    CheckpointFile,
    CheckpointState,
    Decision,
    decide,
    is_permanent,
)
from soapworks.tasks.watch.state import Watch
from soapworks.tasks.watch.survey import Clock, heads_of, now_by


class ClaimedCheckpoint:
    """A checkpoint whose lease this process holds; each step is remembered at once."""

    def __init__(
        self,
        watch: Watch,
        decision: Decision,
        before: CheckpointState | None,
        lease: leases.Lease,
        clock: Clock,
    ) -> None:
        self.why = decision.why
        self._watch, self._lease, self._clock = watch, lease, clock
        file = decision.file
        same = before is not None and before.fingerprint == file.fingerprint
        self._before = before if same else None
        self._state = CheckpointState(
            path=file.path,
            fingerprint=file.fingerprint,
            marker=file.marker,
            status="announced",
            attempts=before.attempts if before and same and not watch.watching.retry else 0,
            announcements=before.announcements if before and same else 0,
            since=now_by(clock),
            reason=before.reason if before and same else "",
            scores=before.scores if before else (),
        )

    def announce(self) -> CheckpointState:
        """Remember that its event goes out."""
        repeated = self._before is not None and self._before.status == "announced"
        again = self._state.announcements if repeated else 0
        return self._remember(status="announced", announcements=again + 1)

    def start(self) -> CheckpointState:
        """Remember that an attempt begins."""
        return self._remember(status="started", attempts=self._state.attempts + 1)

    def scored(self, layers: Sequence[LayerSummary]) -> CheckpointState:
        """Remember its scores."""
        return self._remember(
            status="scored",
            announcements=0,
            reason="",
            permanent=False,
            digest=_digest(layers[0]),
            scores=tuple(layers),
        )

    def failed(self, error: BaseException, message: str) -> CheckpointState:
        """Remember why it failed."""
        return self._remember(
            status="failed",
            announcements=0,
            reason=_reason(message),
            permanent=is_permanent(error),
        )

    def ignored(self, message: str) -> CheckpointState:
        """Remember that it has no backbone, and why."""
        return self._remember(status="ignored", announcements=0, reason=_reason(message), scores=())

    def put_back(self) -> None:
        """Undo an attempt that ended for no reason of the checkpoint's."""
        # Where the store fails too, the attempt counts, and the first error is the one raised.
        with suppress(StoreError):
            if self._before is not None:
                self._write(self._before)
            else:
                # As if never seen: due in the next survey, without a wait.
                self._remember(status="started", attempts=self._state.attempts - 1)

    def raise_if_images_are_to_blame(self, error: Exception) -> None:
        """Put the checkpoint back and raise, where the error is one of the images.

        Raises
        ------
        InputError
            There are no images, or too many that cannot be read.
        """
        watch = self._watch
        try:
            open_folder(watch.images).list()
            # They are indexed first: not all known by now means that scoring got no further.
            if isinstance(error, InputError) and (
                known_images(watch.store, watch.images, watch.settings) is None
            ):
                raise error
        except Exception:
            self.put_back()
            raise

    def is_unchanged(self) -> bool:
        """Return whether the checkpoint is there as it was when it was claimed."""
        try:
            files = list_checkpoints(self._watch.folder)
        except Exception:
            self.put_back()
            raise
        claimed = (self._state.path, self._state.fingerprint)
        return any((file.path, file.fingerprint) == claimed for file in files)

    def _remember(self, **changes: Any) -> CheckpointState:
        self._state = self._state.model_copy(update={**changes, "since": now_by(self._clock)})
        self._write(self._state)
        return self._state

    def _write(self, state: CheckpointState) -> None:
        self._lease.check()  # the process that took over writes the outcome
        self._watch.write(state)


@contextmanager
def claim(watch: Watch, file: CheckpointFile, clock: Clock) -> Iterator[ClaimedCheckpoint | None]:
    """Hold the lease on a checkpoint inside the block; None where it is not, or no longer, due."""
    lease = leases.acquire(watch.address(file.path), watch.store.lease_seconds)
    if lease is None:
        yield None
        return
    try:
        # Between survey and lease another process may have scored it.
        state = watch.read(file.path)
        decision = decide(
            file,
            state,
            now=now_by(clock),
            heads=heads_of(watch, {} if state is None else {file.path: state}),
            options=watch.watching,
            here=watch.watching.start == "here",
        )
        due = decision.verdict == "due"
        yield ClaimedCheckpoint(watch, decision, state, lease, clock) if due else None
    finally:
        lease.release()


def _reason(message: str) -> str:
    return " ".join(one_line(message).split())[:1000]


def _digest(layer: LayerSummary) -> str:
    """Return the digest of the tensors that were scored, from a head's recipe."""
    product = read_product(Location.parse(layer.head))
    return (weights_of(product.recipe) or "") if product is not None else ""
