"""Load a torch file's tensors whatever else was pickled beside them, and run none of it.

torch's own ``weights_only`` loader comes first. It refuses a file for one unknown name, a date or a
path among the settings of the training; such names become inert objects here: they take whatever
they are given and do nothing. Only what rebuilds tensors and plain containers is ever called.
"""

import io
import pickle
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch

from soapworks.errors import CheckpointError

MAX_OPERATIONS = 50_000_000
"""Instructions of a pickle that are read before it is refused."""

_MAX_TUPLE = 1_000_000
_MAX_PICKLE_BYTES = 1 << 30
_DANGEROUS = frozenset(
    {"os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "importlib", "runpy", "code"}
    | {"pty", "ctypes", "webbrowser", "pickle", "_pickle", "shelve", "multiprocessing", "asyncio"}
)
_PLAIN_BUILTINS: dict[str, Callable[..., Any]] = {
    **{"set": set, "frozenset": frozenset, "list": list, "dict": dict, "tuple": tuple},
    **{"int": int, "float": float, "bool": bool, "complex": complex, "slice": slice},
}


class CodeError(Exception):
    """A pickle that would run a program; the message is its name."""


class Inert(dict[Any, Any]):
    """An object of a class that is not loaded: accepts anything, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def _ignore(self, *_: Any) -> None: ...

    append = extend = add = __setstate__ = _ignore
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        """Return an inert object again."""
        return Inert()


def load_inert(path: Path, *, mmap: bool) -> Any:
    """Load a torch file with every unknown class inert.

    Raises
    ------
    CodeError
        If it names a function that starts programs or loads code.
    Exception
        Whatever damaged bytes lead the unpickler to.
    """
    return torch.load(
        path, map_location="cpu", weights_only=False, mmap=mmap, pickle_module=_pickle_module()
    )


def check_pickles(path: Path, *, is_zip: bool) -> None:
    """Refuse pickles that cost more than their length: shared tuples as keys, huge memos.

    Raises
    ------
    CheckpointError
        If a pickle is longer than is read, or a tuple of shared tuples has more than a million
        leaves.
    Exception
        Whatever damaged bytes lead to.
    """
    if not is_zip:
        with path.open("rb") as file:
            for _ in range(5):  # magic number, protocol, machine, content, keys of the storages
                if not file.peek(1):
                    return
                _check(file, path)
        return
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.filename.endswith("/data.pkl"):
                if record.file_size > _MAX_PICKLE_BYTES:
                    raise CheckpointError(
                        f"{path} has {record.file_size} bytes beside its tensors, more than "
                        f"{_MAX_PICKLE_BYTES}: save the tensors alone"
                    )
                _check(io.BytesIO(archive.read(record)), path)


def _check(stream: BinaryIO, path: Path) -> None:
    """Follow a pickle's stack, with the number of leaves that hashing or printing would visit."""
    stack: list[int | None] = []
    memo: dict[int, int] = {}
    for n, (operation, argument, _) in enumerate(pickletools.genops(stream)):
        if n > MAX_OPERATIONS:
            raise CheckpointError(f"{path} has more than {MAX_OPERATIONS} instructions")
        name = operation.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if name == "MEMOIZE" else int(argument or 0)
            if index > n:
                raise CheckpointError(f"{path} is damaged: its memo has gaps")
            memo[index] = _size(stack[-1])
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
            continue
        if name == "DUP":
            stack.append(stack[-1])
            continue
        popped = _pop(stack, operation)
        # Lists, dictionaries and objects are compared by identity or not at all.
        size = 1 + sum(popped) if "TUPLE" in name or name == "FROZENSET" else 1
        if size > _MAX_TUPLE:
            raise CheckpointError(f"{path} nests shared tuples: save the tensors alone")
        for result in operation.stack_after:
            stack.append(None if result is pickletools.markobject else size)


def _pop(stack: list[int | None], operation: pickletools.OpcodeInfo) -> list[int]:
    before = list(operation.stack_before)
    sizes: list[int] = []
    if pickletools.markobject in before:
        while (top := stack.pop()) is not None:
            sizes.append(top)
        before = before[: before.index(pickletools.markobject)]
    elif operation.name == "POP" and stack[-1] is None:
        stack.pop()
        return sizes
    for _ in before:
        sizes.append(_size(stack.pop()))
    return sizes


def _size(item: int | None) -> int:
    return item or 1


def _pickle_module() -> Any:
    """Return what torch calls a pickle module, for one load."""
    return SimpleNamespace(
        __name__="inert",
        Unpickler=_Unpickler,
        load=lambda file, **options: _Unpickler(file, **options).load(),
        UnpicklingError=pickle.UnpicklingError,
    )


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Old protocols are written with the names of Python 2.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        # A fresh object each time: what a pickle sets on it is gone with the load.
        if rebuilds := _REBUILDS.get((module, name)):
            return partial(rebuilds)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) in (("collections", "OrderedDict"), ("torch", "Size")):
            return OrderedDict if name == "OrderedDict" else torch.Size
        if module == "builtins":
            if name in _PLAIN_BUILTINS:
                return _PLAIN_BUILTINS[name]
            if name in ("eval", "exec", "compile", "open", "__import__", "getattr", "input"):
                raise CodeError(f"{module}.{name}")
        if module.partition(".")[0] in _DANGEROUS:
            raise CodeError(f"{module}.{name}")
        return type(name[:80] or "Inert", (Inert,), {})


def _mapping(*arguments: Any) -> dict[Any, Any]:
    given = arguments[-1] if arguments else None
    return dict(given) if isinstance(given, dict) else {}


def _parameter(data: Any, *_: Any) -> Any:
    return data


_REBUILDS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch", "device"): torch.device,
    ("collections", "defaultdict"): _mapping,
    ("collections", "Counter"): _mapping,
}
