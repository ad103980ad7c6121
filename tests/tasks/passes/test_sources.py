"""Images on their way into the network: a file that fails there is named."""

from pathlib import Path

import pytest

from soapworks.errors import ImageError, InputError
from soapworks.images.listing import open_folder
from soapworks.images.preprocessing import Preprocessing
from soapworks.tasks.inputs.images import scan_images
from soapworks.tasks.passes.sources import RealSource


@pytest.fixture
def source(request_of, photographs: Path) -> RealSource:
    request = request_of()
    manifest = scan_images(request.store(), request.images, request.settings, workers=2)
    preprocessing = Preprocessing("squash", 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return RealSource(open_folder(photographs), manifest.segments[0], preprocessing, 2)


def load(source: RealSource) -> None:
    list(source.batches([(0, source.n_images)]))


def test_a_file_that_vanished_since_it_was_indexed_is_named(
    source: RealSource, photographs: Path
) -> None:
    (photographs / "0003.png").unlink()
    with pytest.raises(
        ImageError, match=r"^0003.png in .*/photographs .*: file is no longer there$"
    ):
        load(source)


def test_a_file_that_cannot_be_opened_any_more_is_named(
    source: RealSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(
        ImageError, match=r"^000\d.png in .*: file cannot be read: Permission denied$"
    ):
        load(source)


def test_a_file_that_was_changed_is_named(source: RealSource, photographs: Path) -> None:
    (photographs / "0003.png").write_bytes((photographs / "0004.png").read_bytes())
    with pytest.raises(InputError, match=r"0003.png was changed while the run was under way"):
        load(source)
