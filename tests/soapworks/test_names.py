"""What people read has neither characters that a terminal obeys nor secrets in addresses."""

import pickle

import pytest

from soapworks.errors import InputError, LayerError, StoreError, user_message
from soapworks.names import one_line, printable, redact, sentence


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é name", "plain é name"),
        ("a\x1b[2Jb\x07", r"a\x1b[2Jb\x07"),
        ("a\u202eb\u2028c", r"a\u202eb\u2028c"),
        ("mod\udce8le", r"mod\udce8le"),
    ],
)
def test_control_characters_are_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://token@host/x", "http://***@host/x"),
        ("tcp://user:secret@host:8786", "tcp://***@host:8786"),
        ("tcp://user:secret@", "tcp://***@"),
        ("HTTPS://U:P@H/x", "HTTPS://***@H/x"),
        ("https://u:secr/et@host/x", "https://***@host/x"),
        ("https://u:se@cret@host/x", "https://***@host/x"),
        ("('https://h/a.pth?X-Amz-Signature=secret')", "('https://h/a.pth?***')"),
        ("s3://bucket/run@2/a.pth", "s3://bucket/run@2/a.pth"),
        ("http://[::1]:4200/api", "http://[::1]:4200/api"),
        ("http://host:4200/a@b", "http://host:4200/a@b"),
        ("abfs://container@account/a", "abfs://container@account/a"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_addresses_lose_user_password_and_query(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


def test_a_message_is_one_line_with_one_full_stop() -> None:
    assert one_line("a\nb") == "a b"
    assert sentence("do that.") == sentence("do that") == "do that."


@pytest.mark.parametrize("kind", [InputError, StoreError, LayerError])
def test_an_error_keeps_no_secret(kind: type[Exception]) -> None:
    error = kind("http://me:secret@host/x?sig=secret is wrong")
    assert str(error) == "http://***@host/x?*** is wrong"
    assert "secret" not in repr(error) + repr(pickle.loads(pickle.dumps(error)))


def test_an_error_of_another_library_is_shown_without_secrets() -> None:
    assert "secret" not in user_message(RuntimeError("at http://me:secret@host"))
