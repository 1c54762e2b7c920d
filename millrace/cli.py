"""`millrace`: the command line. Exit codes: 0 done, 1 a check or a step failed, 2 wrong usage."""

import importlib
import json
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from millrace.logs import Logfmt
from millrace.quick_feast import import_feast_quickly
from millrace.settings import STACK_FOLDER
from streams.finite import finite

COMMANDS = {
    "up": ("stack", "Start PostgreSQL, Kafka, Kafka Connect with Debezium and Redis on this machine."),
    "down": ("stack", "Stop them; their data stays."),
    "status": ("stack", "Show the services, the connectors, the workers and how far behind they are."),
    "init": ("declare", "Make a commented starting feature repo."),
    "apply": ("declare", "Check a feature repo against its databases, then set everything up."),
    "run": ("stream", "Run a worker: from Kafka to the feature stores, until SIGTERM."),
    "resume": ("stream", "Let the workers go on with a table that they paused."),
    "backfill": ("stream", "Bring views from the lake into the stores."),
    "resnapshot": ("recover", "Read tables anew while everything runs, and reconcile rows deleted unheard."),
    "recover": ("recover", "Bring a source back whose replication slot was lost, deletes included."),
    "serve": ("serve", "Serve features and searches over HTTP, in Feast's own form."),
    "lookup": ("read", "Show an entity's features as a model service gets them."),
    "search": ("read", "Find the entities of a vector view whose text is nearest to a text."),
    "verify": ("check", "Compare PostgreSQL, the online store and the lake; account for each record."),
    "validate": ("check", "Run a table's whole contract by Great Expectations and write its Data Docs."),
    "compact": ("lake", "Merge the lake's small files, and delete those that were replaced."),
    "letters": ("letters", "List, show, export and replay dead letters."),
    "keys": ("keys", "Make, list and revoke the API keys of model services."),
    "demo": ("demo", "The flights of 2013-02-12 through everything, with a report at the end."),
}


DECLARING = frozenset({"declare", "demo"})
"""The modules of commands that read what people wrote, with Feast's checks of its types."""

PACKAGES = frozenset({"millrace", "streams", "stores", "connectors", "validation", "serving"})


@dataclass(frozen=True, slots=True)
class Out:
    """Where a command speaks: progress and words to stderr, its result to stdout, as JSON if asked."""

    as_json: bool

    def say(self, text: str) -> None:
        """Progress for people."""
        click.echo(text, err=True)

    def result(self, value: dict[str, Any], show: Callable[[dict[str, Any]], str]) -> None:
        """The result: one JSON object on the last line, or what `show` makes of it."""
        click.echo(json.dumps(finite(value), default=str, allow_nan=False) if self.as_json else show(value))


@dataclass(frozen=True, slots=True)
class Places:
    """The options that every command shares."""

    repo: Path
    stack: Path


class Failed(click.ClickException):
    """A command that did its work and has to say no: exit code 1, after its result is printed."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        """The message, in one line."""
        click.echo(f"error: {_in_one_line(self.message)}", err=True)


def _in_one_line(words: object) -> str:
    """What databases and libraries say in several."""
    return " ".join(str(words).split())


class Commands(click.Group):
    """Loads a command's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        import_feast_quickly(declaring=module in DECLARING)
        command: click.Command = getattr(importlib.import_module(f"millrace.commands.{module}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def millrace() -> None:
    """A change committed in PostgreSQL becomes a validated, served feature in milliseconds.

    \b
    On this machine:        millrace up; millrace apply; millrace run
    To see it all at once:  millrace demo
    """


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --repo, --stack and --json, handed to the command as `places` and `out`."""

    def run(repo: Path, stack: Path, as_json: bool, **options: Any) -> Any:
        return command(places=Places(repo, stack), out=Out(as_json), **options)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]  # click's own slot
    path = click.Path(path_type=Path, file_okay=False)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object."),
        click.option("--stack", type=path, default=STACK_FOLDER, show_default=True, help="Folder of the local stack."),
        click.option("--repo", type=path, default="feature_repo", show_default=True, help="The feature repo."),
    ):
        option(run)
    return run


def main() -> None:
    """Run the command line; every known error is one line that says what went wrong and what to do."""
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.filterwarnings("ignore", "(Stream|On demand) feature views? (are|is an) experimental", RuntimeWarning)
    logging.captureWarnings(True)  # Feast makes its warnings heard again as it is imported
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Logfmt())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("feast", "httpx", "great_expectations", "distributed", "py.warnings", "validation.contract"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        millrace(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Exception as error:
        if not _is_ours(error):
            raise
        click.echo(f"error: {_in_one_line(error)}", err=True)
        sys.exit(1)


def _is_ours(error: Exception) -> bool:
    """Whether the error is one that a module of this project raises on purpose, with a text for people."""
    if type(error).__module__.split(".")[0] in PACKAGES:
        return True
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    raised_in = traceback.tb_frame.f_globals.get("__name__", "") if traceback is not None else ""
    return isinstance(error, ValueError | TimeoutError) and raised_in.split(".")[0] in PACKAGES


if __name__ == "__main__":
    main()
