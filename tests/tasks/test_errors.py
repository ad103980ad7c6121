"""Errors travel between processes as what they are: workers raise them, the run tells them."""

import importlib
import pickle
import pkgutil
from collections.abc import Iterator

import pytest

import soapworks
import soapworks.storage_schemas
import soapworks.tasks
from soapworks.errors import RoundingError, SoapworksError
from soapworks.tasks.plan.models import SomeFailedError
from tests.tasks.scored import summary


def kinds(of: type[SoapworksError]) -> Iterator[type[SoapworksError]]:
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


BUILT_FROM_PARTS = {SomeFailedError, RoundingError}
"""Errors that are made from more than their message; each has a test of its own."""


for _package in (soapworks.storage_schemas, soapworks.tasks):
    for _module in pkgutil.walk_packages(_package.__path__, _package.__name__ + "."):
        importlib.import_module(_module.name)


@pytest.mark.parametrize(
    "kind", sorted(set(kinds(SoapworksError)) - BUILT_FROM_PARTS, key=lambda kind: kind.__name__)
)
def test_an_error_that_was_sent_says_the_same(kind: type[SoapworksError]) -> None:
    error = kind("blocks.3 of 'this' is wrong: do that.")
    sent = pickle.loads(pickle.dumps(error))
    assert type(sent) is kind
    assert str(sent) == str(error) == "blocks.3 of 'this' is wrong: do that."


def test_failures_of_several_models_that_were_sent_are_all_there() -> None:
    error = SomeFailedError({"a": "is gone", "b": "has NaN"}, [summary("c")])
    sent = pickle.loads(pickle.dumps(error))
    assert (sent.failures, sent.layers, str(sent)) == (error.failures, error.layers, str(error))


def test_the_layers_of_a_rounding_error_that_was_sent_are_all_there() -> None:
    error = RoundingError({"norm": "norm: channel 7 is lost", "blocks.0": "blocks.0: overflows"})
    sent = pickle.loads(pickle.dumps(error))
    assert (sent.layers, str(sent)) == (error.layers, str(error))
    assert "channel 7" in str(sent)
    assert "--store-dtype" in str(sent)
