import pytest

from soapworks.errors import DamagedProductError, InputError
from soapworks.storage_schemas.layout import names
from soapworks.storage_schemas.layout.names import MAX_DEPTH, decode, encode, safe_part


def test_equal_documents_have_equal_bytes():
    assert encode({"b": 1, "a": [1.5, None]}) == encode({"a": [1.5, None], "b": 1})
    assert decode(encode({"ü": "\ud800"}), "it") == {"ü": "\ud800"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"[" * 200_000,
        b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"a":' * 200_000,
        b"\0" * 100,
    ],
    ids=range(13),
)
def test_documents_that_are_none_are_damage(data):
    with pytest.raises(DamagedProductError, match=r"^it "):
        decode(data, "it")


def test_depth_up_to_the_limit_is_read():
    deep = b'{"a": ' + b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2) + b"}"
    assert list(decode(deep, "it")) == ["a"]


def test_huge_documents_are_refused(monkeypatch):
    monkeypatch.setattr(names, "MAX_DOCUMENT_BYTES", 10)
    with pytest.raises(DamagedProductError, match="larger than"):
        decode(b'{"a": 1234567}', "it")


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}, b"bytes"])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(InputError, match="plain JSON"):
        encode({"a": value})


def test_endless_documents_are_refused():
    endless: list = []
    endless.append(endless)
    with pytest.raises(InputError, match="plain JSON"):
        encode({"a": endless})


@pytest.mark.parametrize("part", ["", "a/b", "..", ".a", "a b", "ä", "x" * 300, 7, "a.partial"])
def test_parts_have_plain_names(part):
    with pytest.raises(InputError):
        safe_part(part)
    assert safe_part("block-00012") == "block-00012"
