"""Names and addresses as people may read them: names are data, addresses hold secrets."""

import re

# A password with a slash in it makes no valid address, and must not be shown for that.
# Before the @ of Azure's addresses stands a container.
_USER = re.compile(
    r"\b(?!(?:abfs|wasb)s?://)(\w[\w+.\-]*://)(?:[^\s/?#]*@|[^\s/?#\[]*:(?!\d*(?:[/?#\s'\",;)]|$))\S*@)"
)
_QUERY = re.compile(r"(\w[\w+.\-]*://[^\s?'\"]*\?)[^\s'\"<>)]+")


def printable(text: object) -> str:
    """Return a text without the characters that a terminal or a page would obey.

    Control characters, marks that turn the direction of writing and lone surrogates become escapes
    as in Python's strings.

    Examples
    --------
    >>> printable("run\\x1b[2J.pth")
    'run\\\\x1b[2J.pth'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in str(text)
    )


def redact(text: object) -> str:
    """Return a text whose addresses have lost user, password and query.

    Examples
    --------
    >>> redact("nothing answers at http://me:secret@host:4200/api?token=1 (refused)")
    'nothing answers at http://***@host:4200/api?*** (refused)'
    """
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", str(text)))


def one_line(text: object) -> str:
    """Return a message as it is shown: one line, printable, without secrets."""
    return printable(redact(" ".join(str(text).splitlines())))


def sentence(text: object) -> str:
    """Return an error's message as it is shown: one line with a full stop."""
    return one_line(text).rstrip(". ") + "."
