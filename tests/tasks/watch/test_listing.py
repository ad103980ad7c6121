"""What counts as a checkpoint in a folder, on a disk and behind a URL."""

import errno
import os
import time
from pathlib import Path

import fsspec
import pytest

from soapworks.errors import InputError, UnreachableError
from soapworks.storage_schemas.locations.location import Location
from soapworks.tasks.watch.listing import checkpoints_among, list_checkpoints


def paths(*names: str) -> list[str]:
    return [one.path for one in checkpoints_among(dict.fromkeys(names, (1, "f")))]


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return Location.parse(tmp_path)


def test_weights_files_at_any_depth() -> None:
    names = ["step_1.safetensors", "mae/a/step_2.pth", "b.PT", "c.pth.tar", "log.txt", "model.bin"]
    assert paths(*names) == [
        *("b.PT", "c.pth.tar", "mae/a/step_2.pth", "model.bin", "step_1.safetensors")
    ]


def test_a_folder_in_the_hugging_face_form_is_one_checkpoint() -> None:
    names = [
        "config.json",
        "model.safetensors",
        "optimizer.pt",
        "deep/rng.pth",
        "training_args.bin",
    ]
    assert paths(*(f"checkpoint-10/{name}" for name in names), "step_1.pt") == [
        *("checkpoint-10", "step_1.pt")
    ]
    assert paths("a/pytorch_model.bin", "b/model.safetensors.index.json", "b/model-1.pt") == [
        *("a", "b")
    ]


def test_the_watched_folder_itself_is_none() -> None:
    assert paths("config.json", "model.safetensors") == ["model.safetensors"]


def test_a_folder_with_a_configuration_and_steps_is_a_folder_of_files() -> None:
    assert paths("run/config.json", "run/step_1.pt", "run/step_2.pt") == [
        *("run/step_1.pt", "run/step_2.pt")
    ]


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden.pt", ".git/a.pt", "step_1.safetensors.tmp", "step_1.pt.part", "step_1.pt~"),
        *("x.tmp/step_1.pt", "a/../step_1.pt", "a//step_1.pt", "readme.md", "step_1.pt.partial"),
    ],
)
def test_what_is_left_alone(name: str) -> None:
    assert paths(name) == []


@pytest.mark.parametrize(
    "name",
    [
        *("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_0.pth"),
        *("training_args.bin", "run/OPTIMIZER.bin", "scheduler.bin"),
        "global_step9/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    ],
)
def test_other_states_of_a_trainer_are_no_checkpoints(name: str) -> None:
    assert paths(name, "step_1.pt") == ["step_1.pt"]


def test_names_that_only_look_like_a_trainers_are_checkpoints() -> None:
    names = ["my_optimizer.pt", "optimizer_adam_step_1.pt", "scheduler/step_1.pt"]
    assert paths(*names) == sorted(names)


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
)
def test_every_shard_is_part_of_the_content(name: str) -> None:
    files = {
        f"a/{shard}": (5, "f")
        for shard in (
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        )
    }
    (before,) = checkpoints_among(files)
    (same,) = checkpoints_among({**files, "a/README.md": (1, "g")})
    (other,) = checkpoints_among({**files, f"a/{name}": (5, "g")})
    assert before.fingerprint == same.fingerprint != other.fingerprint


def test_many_folders_take_no_time() -> None:
    files = {
        f"run/checkpoint-{n}/{name}": (1, "f")
        for n in range(3000)
        for name in ("model.safetensors", "config.json", "optimizer.pt", "a.pt", "b.pt")
    }
    started = time.process_time()
    assert len(checkpoints_among(files)) == 3000
    assert time.process_time() - started < 5


def test_an_empty_file_is_not_there_yet() -> None:
    assert checkpoints_among({"a.pt": (0, "f")}) == []


def test_the_rest_of_a_folder_does_not_change_it() -> None:
    files = {"c/model.safetensors": (5, "w"), "c/config.json": (1, "k"), "c/state.json": (1, "s")}
    (before,) = checkpoints_among(files)
    (same,) = checkpoints_among({**files, "c/state.json": (9, "t"), "c/optimizer.pt": (9, "o")})
    assert same == before
    for name in ("c/model.safetensors", "c/config.json"):
        (other,) = checkpoints_among({**files, name: (5, "x")})
        assert other.fingerprint != before.fingerprint


def test_markers_belong_to_files_and_folders() -> None:
    files = {name: (1, name) for name in ("a.pt", "a.pt.done", "c/model.safetensors", "c.done")}
    assert {one.path: one.marker for one in checkpoints_among(files)} == {
        "a.pt": "a.pt.done",
        "c": "c.done",
    }


def test_on_disk(folder: Location, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/step_1.pt").write_bytes(b"abc")
    (tmp_path / "last.pt").symlink_to("run/step_1.pt")
    (tmp_path / "linked").symlink_to("run")
    os.mkfifo(tmp_path / "pipe.pt")
    (one,) = list_checkpoints(folder)
    assert (one.path, one.n_bytes) == ("run/step_1.pt", 3)
    (tmp_path / "run/step_1.pt").write_bytes(b"abd")
    (changed,) = list_checkpoints(folder)
    assert changed.fingerprint != one.fingerprint


def test_a_pattern_chooses_by_name_or_path(folder: Location, tmp_path: Path) -> None:
    for name in ("mae/step_1.pt", "mae/ema_1.pt", "dino/step_1.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [one.path for one in list_checkpoints(folder, "step_*")] == [
        *("dino/step_1.pt", "mae/step_1.pt")
    ]
    assert len(list_checkpoints(folder, "mae/*")) == 2
    assert list_checkpoints(folder, "STEP_*") == []


def test_a_folder_that_is_missing_or_a_file(folder: Location, tmp_path: Path) -> None:
    assert list_checkpoints(folder) == []
    with pytest.raises(InputError, match="there is no folder"):
        list_checkpoints(folder / "none")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError, match="is a file"):
        list_checkpoints(folder / "file")


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EACCES, InputError), (errno.EIO, UnreachableError)]
)
def test_faults_of_a_disk(
    folder: Location, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def broken(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(kind, match="cannot be listed") as told:
        list_checkpoints(folder)
    assert isinstance(told.value, UnreachableError) == (kind is UnreachableError)


def test_behind_a_url() -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/watched/mae/step_1.pt", b"abc")
    folder = Location.parse("memory://watched")
    (one,) = list_checkpoints(folder)
    assert (one.path, one.n_bytes) == ("mae/step_1.pt", 3)
    system.pipe_file("/watched/mae/step_1.pt", b"abd")
    (changed,) = list_checkpoints(folder)
    assert changed.fingerprint != one.fingerprint
    assert list_checkpoints(Location.parse("memory://nothing")) == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("The specified bucket does not exist"), InputError),
        (PermissionError("Permission denied"), InputError),
        (ConnectionResetError("reset by peer"), UnreachableError),
        (OSError("503 Slow Down"), UnreachableError),
    ],
)
def test_faults_of_a_listing(monkeypatch, error: Exception, kind: type[Exception]) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(MemoryFileSystem, "find", broken)
    with pytest.raises(kind, match=str(error)) as told:
        list_checkpoints(Location.parse("memory://watched"))
    assert isinstance(told.value, UnreachableError) == (kind is UnreachableError)


def test_a_bucket(s3_endpoint: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="watched")
    client.put_object(Bucket="watched", Key="runs/mae/step_1.safetensors", Body=b"abc")
    client.put_object(Bucket="watched", Key="runs/mae/step_1.safetensors.done", Body=b"")
    client.close()
    (one,) = list_checkpoints(Location.parse("s3://watched/runs/"))
    assert (one.path, one.n_bytes, bool(one.marker)) == ("mae/step_1.safetensors", 3, True)
    assert list_checkpoints(Location.parse("s3://watched/before-the-first")) == []
    with pytest.raises(InputError, match="bucket"):
        list_checkpoints(Location.parse("s3://no-such-bucket-at-all/runs"))
