import errno
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from soapworks.errors import InputError, MissingProductError, StoreError
from soapworks.storage_schemas.locations.disk import Disk
from soapworks.storage_schemas.locations.location import Location


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path) -> Iterator[Location]:
    memory = request.param == "memory"
    location = Location.parse(f"memory://{tmp_path.name}" if memory else tmp_path / "store")
    yield location
    location.delete()


def test_addresses_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Location.parse("a/b").url == str(tmp_path / "a/b")
    assert Location.parse("file:///a/b/").url == "/a/b"
    assert Location.parse("file:///a/b").local_path == Path("/a/b")
    assert Location.parse("s3://bucket/a/").url == "s3://bucket/a"
    assert Location.parse("s3://bucket/a").local_path is None
    assert (Location.parse("s3://bucket") / "a/b").name == "b"


@pytest.mark.parametrize(
    "url",
    ["", "a\0b", "simplecache::s3://a", "s3://key:secret@host/b", "s3://a/../b", "nosuch://a/b"],
)
def test_addresses_that_cannot_be_used_are_refused(url):
    with pytest.raises(InputError) as refused:
        Location.parse(url).names()
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "part", ["..", "a/../b", "/etc", "a//b", ".", "", "a\\b", "a\0", "a\n", "\ud800", "x" * 2000]
)
def test_parts_that_lead_elsewhere_are_refused(part):
    with pytest.raises(InputError):
        Location.parse("/store") / part


def test_written_bytes_are_read_and_listed(folder):
    (folder / "a/b").write_bytes(b"one")
    (folder / "a/b").write_bytes(b"three")
    (folder / "c").write_bytes(b"")
    assert (folder / "a/b").read_bytes() == b"three"
    assert (folder / "a/b").digest()[0] == 5
    assert folder.names() == ["a", "c"]
    assert folder.sizes() == {"a/b": 5, "c": 0}
    assert [(folder / name).exists() for name in ("a", "a/b", "d")] == [True, True, False]
    assert [(folder / name).size() for name in ("a", "a/b", "d")] == [None, 5, None]


def test_missing_is_told_and_deleting_it_is_fine(folder):
    with pytest.raises(MissingProductError, match="is not there"):
        (folder / "a").read_bytes()
    (folder / "a").delete()
    assert (folder / "a").names() == list(folder.sizes()) == []
    (folder / "a/b").write_bytes(b"x")
    (folder / "a").delete()
    assert not (folder / "a/b").exists()


def test_one_of_many_creates(folder):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: (folder / "record").create(b"%d" % i), range(32)))
    assert sum(won) == 1
    assert (folder / "record").read_bytes() == b"%d" % won.index(True)
    assert folder.names() == ["record"]


def test_copies_do_not_change_with_their_source(folder):
    (folder / "a").write_bytes(b"old")
    (folder / "b/c").copy_from(folder / "a")
    (folder / "a").write_bytes(b"new")
    assert (folder / "b/c").read_bytes() == b"old"


def test_locations_are_values():
    location = Location.parse("s3://bucket/a")
    assert pickle.loads(pickle.dumps(location)) == location
    assert len({location, Location.parse("s3://bucket/a/")}) == 1


def test_creating_and_copying_work_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    folder = Location.parse(tmp_path)
    assert (folder / "a").create(b"1")
    assert not (folder / "a").create(b"2")
    (folder / "b").copy_from(folder / "a")
    assert [(folder / name).read_bytes() for name in folder.names()] == [b"1", b"1"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left; free some space or choose another store with --store"),
        (errno.EDQUOT, "no space left"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "check that the store can be reached"),
    ],
)
def test_what_goes_wrong_is_told_in_one_sentence(tmp_path, monkeypatch, number, words):
    target = Location.parse(tmp_path) / "a"
    target.write_bytes(b"old")

    def fail(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    for step in (target.write_bytes, (Location.parse(tmp_path) / "b").create):
        with pytest.raises(StoreError, match=words) as told:
            step(b"new")
        assert str(told.value).count(". ") == 0
        assert str(tmp_path) in str(told.value)
    assert target.read_bytes() == b"old"
    assert Location.parse(tmp_path).names() == ["a"]


def test_links_pipes_and_folders_are_not_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    inside = tmp_path / "store"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "folder").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    store = Location.parse(inside)
    with pytest.raises(StoreError, match="symbolic link"):
        (store / "link").read_bytes()
    for name in ("pipe", "folder"):
        with pytest.raises(StoreError):
            (store / name).read_bytes()
    assert list(store.sizes()) == []
    assert (store / "link").size() is None
    (store / "folder").delete()
    assert (tmp_path / "secret").exists()


def test_a_full_and_a_read_only_disk_are_told_and_leave_nothing_half(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        folder = Location.parse(mount)
        (folder / "a").write_bytes(b"old")
        with pytest.raises(StoreError, match="no space left"):
            (folder / "a").write_bytes(bytes(2**21))
        with pytest.raises(StoreError, match="no space left"):
            (folder / "b").create(bytes(2**21))
        assert (folder / "a").read_bytes() == b"old"
        assert folder.names() == ["a"]
        assert 0 < (folder.free_bytes() or 0) <= 2**20
        subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        with pytest.raises(StoreError, match="the store is read-only"):
            (folder / "b").create(b"x")
        with pytest.raises(StoreError, match="the store is read-only"):
            (folder / "a").delete()
        assert (folder / "a").read_bytes() == b"old"
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_folder_without_rights_is_told(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="permission denied"):
        (Location.parse(tmp_path) / "a/b").write_bytes(b"x")


def test_a_vanishing_folder_is_made_again(tmp_path, monkeypatch):
    # Another process deletes the empty folder between making it and writing into it.
    made, real = [], Path.mkdir

    def mkdir(path, *args, **kwargs):
        real(path, *args, **kwargs)
        made.append(path)
        if len(made) == 1:
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    Disk().write(str(tmp_path / "a/b"), b"x", durable=False)
    assert (tmp_path / "a/b").read_bytes() == b"x"
    assert len(made) == 2


def test_what_is_durable_has_all_its_folders_synced(tmp_path, monkeypatch):
    from soapworks.storage_schemas.locations import disk

    synced: set[str] = set()
    real = disk._sync
    monkeypatch.setattr(disk, "_sync", lambda path: (real(path), synced.add(path)))
    store = Location.parse(tmp_path / "store")
    attempt = store / "features/product/attempt"
    folders = {store.url, *(f"{store.url}/{name}" for name in ("features", "features/product"))}
    for change in (
        lambda: (store / "features/product/record.json").create(b"1"),
        lambda: (store / "features/product/recipe.json").write_bytes(b"1"),
    ):
        synced.clear()
        change()
        assert synced == {str(tmp_path), *folders}
    (attempt / "arrays/c/0/1").write_bytes(b"1", durable=False)
    (attempt / "table").write_bytes(b"1", durable=False)
    synced.clear()
    attempt.sync(["arrays/c/0/1", "table"])
    inside = {f"{attempt.url}/{name}" for name in ("arrays", "arrays/c", "arrays/c/0")}
    files = {f"{attempt.url}/arrays/c/0/1", f"{attempt.url}/table"}
    assert synced == {str(tmp_path), *folders, attempt.url, *inside, *files}
