"""Pickles: tensors load beside objects of any class, nothing runs, time and memory are bounded."""

import argparse
import datetime
import enum
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soapworks.backbones import open_checkpoint
from soapworks.errors import CheckpointError, NotACheckpointError
from tests.soapworks.backbones.conftest import plain_model

ARCHITECTURE = "vit_base_patch16_224"
STATE = plain_model(ARCHITECTURE, img_size=32).state_dict()


class Config(dict[str, Any]):
    """A configuration's mapping, as EasyDict or OmegaConf have them."""


class Mode(enum.Enum):
    TRAIN = 1


class Tracker:
    """An object with a state of its own."""

    def __init__(self) -> None:
        self.losses = [0.5, Mode.TRAIN]


BESIDE: dict[str, Any] = {
    "numpy scalar": np.float64(0.5),
    "numpy array": np.arange(6.0),
    "numpy generator": np.random.default_rng(0).bit_generator.state,
    "path": pathlib.PurePosixPath("/data/runs"),
    "defaultdict": defaultdict(list, {"loss": [1.0]}),
    "counter": Counter("aab"),
    "date": datetime.datetime(2026, 1, 2),
    "timedelta": datetime.timedelta(seconds=3),
    "namespace": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("x")),
    "mapping": Config(lr=0.1, inner=Config(a=1)),
    "object": Tracker(),
    "enum as key": {Mode.TRAIN: 1},
    "set": {1, 2},
    "slice": slice(1, 2),
    "complex": 1 + 2j,
    "bytes": b"\xff\x00",
    "class": Tracker,
    "function": os.path.join,
    "ordered": OrderedDict(a=Tracker()),
    "dtype": torch.bfloat16,
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("with_zip", [True, False])
def test_tensors_load_beside_any_object(
    beside: Any, protocol: int, with_zip: bool, tmp_path: Path
) -> None:
    torch.save(
        {"args": beside, "model": STATE},
        tmp_path / "a.pth",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=with_zip,
    )
    found = open_checkpoint(str(tmp_path / "a.pth"), architecture=ARCHITECTURE).tensors()
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_parameters_and_a_defaultdict_of_weights_load(tmp_path: Path) -> None:
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in STATE.items()}
    torch.save({"model": defaultdict(list, parameters), "x": Tracker()}, tmp_path / "a.pth")
    found = open_checkpoint(str(tmp_path / "a.pth"), architecture=ARCHITECTURE).tensors()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


class _Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _sabotage() -> None:
    raise AssertionError("this ran")


@pytest.mark.parametrize("function", [os.system, subprocess.check_call, eval, exec, __import__])
def test_a_call_of_a_program_is_refused(function: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"model": STATE, "x": _Calls(function, f"touch {trace}")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="wants to run code"):
        open_checkpoint(str(tmp_path / "a.pth"), architecture=ARCHITECTURE).tensors()
    assert not trace.exists()


def test_any_other_call_does_nothing(tmp_path: Path) -> None:
    torch.save({"model": STATE, "x": _Calls(_sabotage)}, tmp_path / "a.pth")
    assert open_checkpoint(str(tmp_path / "a.pth"), architecture=ARCHITECTURE).tensors()


def test_a_pickle_changes_nothing_that_outlives_it(tmp_path: Path) -> None:
    """BUILD sets attributes on whatever lies on the stack, functions of torch included."""
    rebuild = torch._utils._rebuild_tensor_v2
    before = rebuild.__defaults__
    program = (
        b"\x80\x02}(X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n"
        b"N}X\x0c\x00\x00\x00__defaults__)s\x86b"
        b"X\x01\x00\x00\x00bcno.such\nthing\nu."
    )
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/version", "3")
    with pytest.raises(CheckpointError):
        open_checkpoint(str(tmp_path / "a.pth"), architecture=ARCHITECTURE).tensors()
    assert rebuild.__defaults__ == before
    assert torch._utils._rebuild_tensor_v2 is rebuild


def _shared_tuples(depth: int, end: bytes) -> bytes:
    """A pickle of 2^depth leaves in a few bytes."""
    parts = [b"\x80\x02})q\x00"]
    parts += [b"h%c\x86q%c" % (number, number + 1) for number in range(depth)]
    return b"".join([*parts, end])


@pytest.mark.parametrize("end", [b"K\x01s.", b"cno.such\nthing\ns."])
@pytest.mark.parametrize("with_zip", [True, False])
def test_shared_tuples_as_keys_are_refused_at_once(
    end: bytes, with_zip: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.pth"
    if with_zip:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", _shared_tuples(60, end))
            archive.writestr("a/version", "3")
    else:
        path.write_bytes(_shared_tuples(60, end))
    started = time.process_time()
    with pytest.raises(CheckpointError):
        open_checkpoint(str(path), architecture=ARCHITECTURE).tensors()
    assert time.process_time() - started < 5


def test_a_memo_with_gaps_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"cno.such\nthing\n.")
    code = (
        "import resource, sys\n"
        "from soapworks.backbones import open_checkpoint\n"
        "import torch, timm\n"
        f"c = open_checkpoint({str(path)!r}, architecture={ARCHITECTURE!r})\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: c.tensors()\n"
        "except ValueError as error: print(error, file=sys.stderr)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert int(run.stdout) < 100_000  # kB
    assert "is damaged" in run.stderr


def test_a_pickled_model_and_a_trainers_arguments_are_no_checkpoints(tmp_path: Path) -> None:
    for content in (Tracker(), torch.nn.Linear(2, 2)):
        torch.save(content, tmp_path / "training_args.bin")
        checkpoint = open_checkpoint(str(tmp_path / "training_args.bin"), architecture=ARCHITECTURE)
        with pytest.raises(NotACheckpointError):
            checkpoint.tensors()


def test_a_torchscript_program_is_not_run(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"a/{name}", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="TorchScript"):
        open_checkpoint(str(tmp_path / "a.pt"), architecture=ARCHITECTURE).tensors()


def test_what_is_scanned_is_what_pickle_writes() -> None:
    """The scan follows every instruction that pickle itself writes."""
    from soapworks.backbones.files.pickles import _check

    shared = (1, 2)
    content = [*BESIDE.values(), {shared: [shared, shared]}, frozenset([shared]), b"x" * 300]
    for protocol in range(6):
        _check(io.BytesIO(pickle.dumps(content, protocol)), Path("a.pth"))
