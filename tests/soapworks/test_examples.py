"""Docstrings of the library are contracts: their examples run, and nothing public lacks one."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import soapworks

ROOT = Path(soapworks.__file__).parent
# The works are links in the library's folder.
WORKS = {"flows", "tasks", "storage_schemas"}
MODULES = sorted(
    ".".join(("soapworks", *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0] not in WORKS and ">>> " in path.read_text()
)
PUBLIC = sorted(name for name in soapworks.__all__ if callable(getattr(soapworks, name)))


def test_modules_with_examples_are_found():
    assert {"soapworks.heads.attachment", "soapworks.method.scores"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name):
    failed, tried = doctest.testmod(import_module(name))
    assert tried
    assert not failed


@pytest.mark.parametrize("name", PUBLIC)
def test_public_things_have_a_contract(name):
    thing = getattr(soapworks, name)
    text = inspect.getdoc(thing)
    first, _, rest = text.partition("\n")
    assert first.endswith(".")
    assert len(first.split()) <= 10
    if not (inspect.isclass(thing) and issubclass(thing, Exception)):
        assert "Examples\n--------\n>>> " in rest
    if inspect.isfunction(thing):
        assert "Parameters\n" in rest
        assert "Returns\n" in rest
