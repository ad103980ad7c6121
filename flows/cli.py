"""The command line ``soapworks``: commands are loaded when they are called."""

import os
import sys
from importlib import import_module
from io import TextIOWrapper

import click

from soapworks.errors import InputError, user_message
from soapworks.names import sentence

COMMANDS = {
    "score": ("score", "Score layers of checkpoints and make their SOAP heads."),
    "plan": ("plan", "Show what score would do and cost; compute nothing."),
    "watch": ("watch", "Score checkpoints as they arrive in a folder."),
    "leaderboard": ("looking.leaderboard", "Compare models and layers in a store."),
    "report": ("looking.report", "Write an HTML page per checkpoint."),
    "ls": ("looking.inspect", "List the products in a store."),
    "show": ("looking.inspect", "Show one product whole."),
    "verify": ("upkeep.verify", "Read everything stored and name what is damaged."),
    "gc": ("upkeep.gc", "Make room: delete features, leftovers, old products."),
    "scenes": ("scenes", "Write procedural scenes to try things on."),
}
"""Name of a command: its module in ``commands/`` and its help."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"soapworks.flows.commands.{COMMANDS[cmd_name][0]}")
        return getattr(module, cmd_name.replace("-", "_"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="soapworks")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def soapworks(debug: bool) -> None:
    """Find and suppress non-semantic components of vision transformers.

    From checkpoints and a folder of images: semantic-invariance scores of all principal
    components and a linear head per (checkpoint, layer), each computed once.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors become one sentence and an exit status (1; usage 2)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # Prefect and Dask read these when they are imported, which only some commands do.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    tolerate_encodings()
    try:
        # Accepted before and after the command's name.
        _check_encoding(arguments)
        soapworks(args=[a for a in arguments if a != "--debug"], standalone_mode=False)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.Abort:
        sys.exit(_say("interrupted", 130))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; run the same command again to go on", 130))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        sys.exit(_say(user_message(error), 1))


def _check_encoding(arguments: list[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"{argument} is not valid UTF-8: rename it") from None


def tolerate_encodings() -> None:
    """Let standard streams replace characters that their encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _say(message: str, status: int) -> int:
    click.echo(f"soapworks: {sentence(message)}", err=True)
    return status


if __name__ == "__main__":
    main()
