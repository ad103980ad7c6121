import errno
import os
import pickle
import uuid
from pathlib import Path

import fsspec
import pytest

from soapworks.errors import ImageError, InputError, UnreachableError
from soapworks.images.findings import ImageFile
from soapworks.images.listing import open_folder, sample_images


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for name in ("b.jpg", "A.PNG", "sub/deep/er/c.Tiff", "sub/b.webp", "sub-x.gif", "é/ü.bmp"):
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(name.encode())
    return root


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}"
    yield system, root
    if system.exists(root):
        system.rm(root, recursive=True)


def list_images(url):
    return open_folder(url).list()


def paths(url):
    return [file.path for file in list_images(url)]


LISTED = ["A.PNG", "b.jpg", "sub-x.gif", "sub/b.webp", "sub/deep/er/c.Tiff", "é/ü.bmp"]


def test_any_depth_any_case_sorted_by_code_points(folder):
    assert paths(folder) == paths(str(folder)) == paths(f"file://{folder}") == LISTED


def test_relative_and_home_paths(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert paths("photos") == paths("~/photos") == paths("photos/") == LISTED
    assert open_folder("photos").url == str(folder)


def test_remote_folders_list_the_same(folder, memory):
    system, root = memory
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    assert paths(f"memory:/{root}") == paths(f"memory:/{root}/") == LISTED
    remote = open_folder(f"memory:/{root}")
    assert remote.read("é/ü.bmp") == "é/ü.bmp".encode()
    assert [file.size for file in remote.list()] == [file.size for file in list_images(folder)]


def test_names_with_newlines_and_spaces(folder):
    (folder / "new\nline .jpg").write_bytes(b"x")
    assert "new\nline .jpg" in paths(folder)
    assert open_folder(folder).read("new\nline .jpg") == b"x"


def test_hidden_files_and_folders_are_left_out(folder, memory):
    system, root = memory
    for name in (".x.jpg", ".thumbs/y.jpg", "sub/.z/w.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        system.pipe(f"{root}/{name}", b"x")
    system.pipe(f"{root}/a.jpg", b"x")
    assert paths(folder) == LISTED
    assert open_folder(folder).survey().n_hidden == 3
    assert paths(f"memory:/{root}") == ["a.jpg"]
    assert open_folder(f"memory:/{root}").survey().n_hidden == 3


def test_fingerprint_on_disk_follows_every_change(folder):
    def fingerprint():
        return next(file.fingerprint for file in list_images(folder) if file.path == "b.jpg")

    place = folder / "b.jpg"
    first = fingerprint()
    assert first == fingerprint()
    facts = place.stat()
    assert first == f"5:{facts.st_mtime_ns}:{facts.st_ctime_ns}:{facts.st_ino}"
    os.utime(place, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    touched = fingerprint()
    copy = folder / "copy"
    copy.write_bytes(b"other")
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    copy.replace(place)  # same size, same time of modification, another file
    assert len({first, touched, fingerprint()}) == 3


def test_fingerprint_of_objects_follows_overwriting(memory):
    system, root = memory
    system.pipe(f"{root}/a.jpg", b"one")
    first = list_images(f"memory:/{root}")
    assert first == list_images(f"memory:/{root}")
    system.pipe(f"{root}/a.jpg", b"two")
    assert list_images(f"memory:/{root}")[0].fingerprint != first[0].fingerprint


def test_links_out_of_the_folder_are_refused_and_counted(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"x")
    (folder / "link.jpg").symlink_to(outside / "secret.jpg")
    (folder / "linked").symlink_to(outside)
    (folder / "dangling.jpg").symlink_to(folder / "nothing.jpg")
    (folder / "circle.jpg").symlink_to(folder / "circle.jpg")
    found = open_folder(folder).survey()
    assert [file.path for file in found.files] == LISTED
    refused = [entry.path for entry in found.refused]
    assert refused == ["circle.jpg", "dangling.jpg", "link.jpg", "linked"]
    for path in ("link.jpg", "linked/secret.jpg"):
        with pytest.raises(InputError, match="leads out of"):
            open_folder(folder).read(path)


def test_links_to_files_inside_are_followed_and_to_folders_are_not(folder):
    (folder / "same.jpg").symlink_to("b.jpg")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "again").symlink_to("sub")
    found = open_folder(folder).survey()
    assert [file.path for file in found.files] == sorted([*LISTED, "same.jpg"])
    assert found.refused == []
    assert open_folder(folder).read("same.jpg") == b"b.jpg"


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert paths(tmp_path / "link") == LISTED
    assert open_folder(tmp_path / "link").read("b.jpg") == b"b.jpg"


def test_what_is_no_regular_file_is_refused_and_does_not_block(folder):
    os.mkfifo(folder / "pipe.jpg")
    found = open_folder(folder).survey()
    assert [(entry.path, entry.reason) for entry in found.refused] == [
        ("pipe.jpg", "not a regular file")
    ]
    with pytest.raises(ImageError, match="not a regular file"):
        open_folder(folder).read("pipe.jpg")


def test_names_that_are_not_utf8_are_refused(folder):
    (folder / os.fsdecode(b"bad\xff.jpg")).write_bytes(b"x")
    (folder / os.fsdecode(b"other.\xff")).write_bytes(b"x")
    found = open_folder(folder).survey()
    assert [entry.path for entry in found.refused] == ["bad\\udcff.jpg"]
    assert found.describe_others() == r"1 other file (1 .\udcff)"
    assert found.refused[0].path.isprintable()


def test_a_folder_whose_name_is_not_utf8_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match=r"bad\\udcff, is not valid UTF-8; rename it") as caught:
        open_folder(tmp_path / os.fsdecode(b"bad\xff"))
    assert str(caught.value).isprintable()


def test_litter_of_operating_systems_is_hidden(folder):
    for name in ("Thumbs.db", "sub/desktop.ini", "__MACOSX/x.jpg", "@eaDir/b.jpg/THUMB.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    found = open_folder(folder).survey()
    assert [file.path for file in found.files] == LISTED
    assert (found.n_hidden, found.other_suffixes.total(), found.refused) == (4, 0, [])


def test_a_folder_of_the_system_does_not_block_a_disk(folder, monkeypatch):
    (folder / "lost+found").mkdir()
    scandir = os.scandir

    def denied(place):
        if place.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", denied)
    assert paths(folder) == LISTED


def test_formats_that_are_not_read_are_refused_with_the_cure(folder, memory):
    system, root = memory
    for name in ("a.jp2", "sub/b.CR2", "b.nef", "labels.csv"):  # b.jpg is the same picture
        (folder / name).write_bytes(b"x")
    for name in ("a.jp2", "sub/b.CR2", "b.nef", "b.jpg", "sub/b.webp"):
        system.pipe(f"{root}/{name}", b"x")
    for url in (folder, f"memory:/{root}"):
        found = open_folder(url).survey()
        assert [entry.path for entry in found.refused] == ["a.jp2"]
        assert found.refused[0].reason == ".jp2 is not read; convert it to PNG or JPEG"
        assert found.other_suffixes[".nef"] == found.other_suffixes[".cr2"] == 1


@pytest.fixture
def snapshot(tmp_path):
    """Build a folder as huggingface_hub leaves it, and return its snapshot."""
    cache = tmp_path / "hub" / "datasets--who--what"
    snapshot = cache / "snapshots" / "0123abcd" / "train"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name in ("a.jpg", "b.png"):
        (cache / "blobs" / f"{name}-digest").write_bytes(name.encode())
        (snapshot / name).symlink_to(f"../../../blobs/{name}-digest")
    (snapshot / "c.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (tmp_path / "elsewhere.jpg").write_bytes(b"x")
    return snapshot.parent


def test_a_snapshot_of_hugging_face_is_read_through_its_links(snapshot, tmp_path):
    (tmp_path / "link").symlink_to(snapshot)
    for folder in (snapshot, snapshot / "train", tmp_path / "link"):
        found = open_folder(folder).survey()
        first = found.files[0]
        assert [file.path.rpartition("/")[2] for file in found.files] == ["a.jpg", "b.png"]
        assert [entry.path.rpartition("/")[2] for entry in found.refused] == ["c.jpg"]
        assert open_folder(folder).read(first.path) == b"a.jpg"
        assert first.size == 5
        with pytest.raises(InputError, match="leads out of"):
            open_folder(folder).read(found.refused[0].path)


def test_the_cache_of_a_snapshot_is_no_way_out(snapshot, tmp_path):
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(tmp_path / "moved")
    blobs.symlink_to(tmp_path / "moved")
    with pytest.raises(InputError, match=r"no image in .* 3 refused"):
        open_folder(snapshot).survey()


@pytest.mark.parametrize(
    "path", ["../x.jpg", "sub/../../x.jpg", "/etc/passwd", "", ".", "a//b.jpg", "a\0.jpg", "b.jpg/"]
)
def test_paths_that_escape_are_not_read(folder, memory, path):
    system, root = memory
    system.pipe(f"{root}/b.jpg", b"x")
    system.pipe("/x.jpg", b"x")
    for url in (folder, f"memory:/{root}"):
        with pytest.raises(InputError, match="no path inside of"):
            open_folder(url).read(path)
    system.rm("/x.jpg")


def test_files_that_are_gone_or_too_long(folder, memory):
    system, root = memory
    system.pipe(f"{root}/b.jpg", b"b.jpg")
    for url in (folder, f"memory:/{root}"):
        with pytest.raises(ImageError, match="no longer there"):
            open_folder(url).read("gone.jpg")
        with pytest.raises(ImageError, match="longer than the limit of 4 bytes"):
            open_folder(url).read("b.jpg", max_bytes=4)
        assert open_folder(url).read("b.jpg", max_bytes=5) == b"b.jpg"


def test_object_keys_that_are_no_paths_are_refused(memory, monkeypatch):
    system, root = memory
    keys = ("a.jpg", "x/../b.jpg", "x//c.jpg", "./d.jpg", "marker/", "e?versionId=1.jpg")
    listing = {f"{root}/{key}": {"size": 1} for key in keys}  # as an object store returns it
    monkeypatch.setattr(type(system), "find", lambda *_, **__: listing)
    found = open_folder(f"memory:/{root}").survey()
    assert [file.path for file in found.files] == ["a.jpg"]
    assert [entry.path for entry in found.refused] == [
        *("./d.jpg", "e?versionId=1.jpg", "x/../b.jpg", "x//c.jpg")
    ]


def test_a_folder_without_images_says_what_is_there(tmp_path):
    for name in ("a.txt", "b.TXT", "c.csv", "README", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        list_images(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert ".bmp .gif" in message
    assert "found 4 other files (2 .txt, " in message
    assert "1 without suffix" in message
    assert "1 hidden" in message
    assert "\n" not in message


def test_many_suffixes_are_not_all_named(tmp_path):
    for number in range(9):
        (tmp_path / f"file.x{number}").write_bytes(b"x")
    with pytest.raises(InputError, match=r"9 other files \(.*, \.\.\.\)"):
        list_images(tmp_path)


def test_refused_links_are_named_when_nothing_else_is_there(tmp_path):
    (tmp_path / "link.jpg").symlink_to("/nowhere.jpg")
    with pytest.raises(InputError, match=r"1 refused \(first: link.jpg, a symbolic link that"):
        list_images(tmp_path)


def test_empty_missing_and_file(tmp_path, memory):
    system, root = memory
    system.pipe(f"{root}/a.jpg", b"x")
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="the folder is empty"):
        list_images(tmp_path / "empty")
    for url in (tmp_path / "none", f"memory:/{root}x"):
        with pytest.raises(InputError, match="there is no folder"):
            list_images(url)
    for url in (tmp_path / "a.jpg", f"memory:/{root}/a.jpg"):
        with pytest.raises(InputError, match="is a file, not a folder"):
            list_images(url)
    with pytest.raises(InputError, match="empty name"):
        list_images("")


def test_unknown_kinds_of_url():
    with pytest.raises(InputError, match="nonsense://x cannot be listed"):
        list_images("nonsense://x")


def test_a_folder_can_be_sent_to_a_worker(folder):
    sent = pickle.loads(pickle.dumps(open_folder(folder)))
    assert sent == open_folder(folder)
    assert sent.read("b.jpg") == b"b.jpg"


FILES = [ImageFile(f"{number:03d}.jpg", 1, "") for number in range(200)]


def test_samples_are_nested_seeded_and_in_order():
    small, large = (sample_images(FILES, n, seed=1) for n in (20, 60))
    assert len(small) == 20
    assert set(small) < set(large)
    assert small == sorted(small, key=lambda file: file.path)
    assert small == sample_images(FILES[::-1], 20, seed=1)
    assert small != sample_images(FILES, 20, seed=2)


def test_the_rank_is_as_documented():
    import hashlib

    def rank(file):
        return hashlib.sha256(f"7:{file.path}".encode()).hexdigest()

    assert sample_images(FILES, 1, seed=7) == [min(FILES, key=rank)]


def test_a_growing_folder_replaces_no_more_than_it_adds():
    before = set(sample_images(FILES[:150], 50, seed=0))
    after = set(sample_images(FILES, 50, seed=0))
    assert after - before <= set(FILES[150:])
    assert 0 < len(after - before) < 30


def test_all_are_taken_when_asked_or_too_few():
    assert sample_images(FILES[::-1], None, seed=0) == FILES
    assert sample_images(FILES, 999, seed=0) == FILES
    for wrong in (0, -1):
        with pytest.raises(InputError, match="max_images is"):
            sample_images(FILES, wrong, seed=0)


def test_a_folder_that_may_not_be_entered_is_named(folder, monkeypatch):
    scandir = os.scandir

    def denied(place):
        if place.name == "sub":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"sub cannot be listed \(Permission denied\)"):
        list_images(folder)


def failing(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", fail)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ELOOP])
def test_the_fault_of_one_file_is_a_reason(folder, monkeypatch, number):
    failing(monkeypatch, OSError(number, os.strerror(number)))
    with pytest.raises(ImageError, match=f"^file cannot be read: {os.strerror(number)}$"):
        open_folder(folder).read("b.jpg")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ETIMEDOUT, errno.ESTALE])
def test_a_disk_that_fails_is_no_fault_of_the_file(folder, monkeypatch, number):
    failing(monkeypatch, OSError(number, os.strerror(number)))
    with pytest.raises(UnreachableError, match=r"^b.jpg in .* cannot be read: .* start again$"):
        open_folder(folder).read("b.jpg")


class AnsweredError(Exception):
    def __init__(self, code):
        self.response = {"Error": {"Code": code}}


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (PermissionError("no"), "AccessDenied", ImageError),
        (PermissionError("no"), None, ImageError),
        (PermissionError("no"), "ExpiredToken", UnreachableError),
        (OSError(errno.EIO, "no"), "InternalError", UnreachableError),
        (TimeoutError("no"), None, UnreachableError),
    ],
)
def test_faults_of_objects_and_of_their_server(memory, monkeypatch, error, code, kind):
    system, root = memory
    system.pipe(f"{root}/b.jpg", b"x")
    error.__cause__ = AnsweredError(code) if code else None
    failing(monkeypatch, error)
    with pytest.raises(kind):
        open_folder(f"memory:/{root}").read("b.jpg")


def test_a_long_file_is_not_read_to_find_out(folder, monkeypatch):
    os.truncate(folder / "b.jpg", 2**30 + 1)
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("was opened"))
    with pytest.raises(ImageError, match="longer than the limit of 1073741824 bytes"):
        open_folder(folder).read("b.jpg")
