"""The terminal: lines, consoles and tables in which names are data, never markup."""

from typing import Any, TextIO

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from soapworks.names import one_line, printable

PLAIN_WIDTH = 160
"""Columns of text where standard output is no terminal."""


def console(stream: TextIO | None = None) -> Console:
    """Return the console of a stream, wide where it is no terminal; standard output by default."""
    found = Console(file=stream, highlight=False)
    return found if found.is_terminal else Console(file=stream, highlight=False, width=PLAIN_WIDTH)


def echo(line: object, *, err: bool = False) -> None:
    """Print one line of text, on standard error where asked."""
    click.echo(one_line(line), err=err)


def text(value: object, style: str = "") -> Text:
    """Return a text that rich prints as it is."""
    return Text(printable(value), style)


class DataTable(Table):
    """A table whose title, headings and cells are printed as they are."""

    def __init__(self, *headings: object, title: object = None, **look: Any) -> None:
        super().__init__(title_justify="left", **look)
        self.title = None if title is None else text(title)
        for heading in headings:
            self.add_column(heading)

    def add_column(self, header: object = "", *args: Any, **look: Any) -> None:
        """Add a column."""
        super().add_column(text(header), *args, **look)

    def add_row(self, *cells: object, **look: Any) -> None:
        """Add a row."""
        super().add_row(*(text(value) for value in cells), **look)
