"""Interrupted runs: only unfinished blocks are done again, and the bytes are those of one go."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from soapworks.storage_schemas.store import Store
from soapworks.tasks.stages import extract
from tests.tasks.conftest import Forwards, run_stages


def contents(store: Store) -> dict[str, str]:
    """Return digest by product and file, read from the files themselves."""
    return {
        f"{product.kind}/{product.key}/{name}": hashlib.sha256(product.read(name)).hexdigest()
        for product in store.products()
        if product.kind not in ("checkpoints",)
        for name in product.record["files"]
    }


class Killed(BaseException):
    """Stands for a kill: nothing in the code may catch and mend it."""


def fail_at_call(n: int, original: Callable[..., None]) -> Callable[..., None]:
    calls = 0

    def function(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == n:
            raise Killed
        original(*arguments)

    return function


@pytest.mark.parametrize("call", [1, 4, 9, 20])
def test_interrupted_extraction_goes_on_where_it_stopped(
    request_of, forwards: Forwards, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: int
) -> None:
    undisturbed = request_of(store=str(tmp_path / "undisturbed"), segment_images=32)
    run_stages(undisturbed)
    forwards.calls.clear()
    request = request_of(segment_images=32)
    with monkeypatch.context() as patch:
        patch.setattr(extract, "write_block", fail_at_call(call, extract.write_block))
        with pytest.raises(Killed):
            run_stages(request)
    first = forwards.n_images
    forwards.calls.clear()
    run_stages(request)
    assert contents(request.store()) == contents(undisturbed.store())
    # Of 3 layers x (6 + 3) blocks, those finished before the interruption are not done again;
    # one block may have been computed and not yet written.
    assert forwards.n_images <= 31 - first + 2 * 4


def test_failed_stage_leaves_no_product(request_of, monkeypatch: pytest.MonkeyPatch) -> None:
    from soapworks.tasks.stages import fit_pca

    request = request_of(layers="norm")
    with monkeypatch.context() as patch:

        def fail(*arguments: object) -> None:
            raise Killed

        patch.setattr(fit_pca, "fit", fail)
        with pytest.raises(Killed):
            run_stages(request)
    kinds = {product.kind for product in request.store().products()}
    assert kinds == {"images", "checkpoints", "features", "moments"}
    run_stages(request)
    assert "heads" in {product.kind for product in request.store().products()}
