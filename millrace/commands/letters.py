"""Dead letters: list, show, export, replay."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millrace.cli import Failed, Out, Places, shared

if TYPE_CHECKING:
    from streams.letters import Letter

SAY_EACH = 10_000


@click.group
def letters() -> None:
    """Dead letters: what was rejected, why, and how to send it again."""


def filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose letters."""
    for option in (
        click.option("--until", type=click.DateTime(), help="Only letters written before this time (UTC)."),
        click.option("--since", type=click.DateTime(), help="Only letters written at or after this time (UTC)."),
        click.option("--reason", help="Only letters with this text among their reasons."),
        click.option("--stage", type=click.Choice(["decode", "schema", "contract", "transform"])),
        click.option("--table", help="Only letters of this table, as <source>.<schema>.<table>."),
    ):
        command = option(command)
    return command


@letters.command("list")
@click.option("--limit", default=50, show_default=True, help="Show at most this many, the newest.")
@filtered
@shared
def list_(places: Places, out: Out, limit: int, **wanted: Any) -> None:
    """List letters: number, table, stage and reasons."""
    found = [letter.as_dict() for letter in _read(places, **wanted)]
    reasons = Counter(reason for letter in found for reason in letter["reasons"])  # type: ignore[attr-defined]
    out.result(
        {"count": len(found), "reasons": dict(reasons.most_common()), "letters": found[-limit:]},
        lambda value: "\n".join([*map(_line, value["letters"]), f"{value['count']} letters"]),
    )


@letters.command
@click.argument("number", type=int)
@click.option("--raw", is_flag=True, help="Write the original bytes to stdout, and nothing else.")
@shared
def show(places: Places, out: Out, number: int, raw: bool) -> None:
    """Show one letter with its original bytes."""
    letter = next((x for x in _read(places, start=number) if x.number == number), None)
    if letter is None:
        raise Failed(f"there is no letter {number}: millrace letters list shows the numbers")
    if raw:
        sys.stdout.buffer.write(letter.value or b"")
        return
    key, value = ((part or b"").decode(errors="replace") for part in (letter.key, letter.value))
    out.result(
        {**letter.as_dict(), "key": key, "value": value},
        lambda v: "\n".join(f"{name:10} {content}" for name, content in v.items()),
    )


@letters.command
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@filtered
@shared
def export(places: Places, out: Out, file: Path, **wanted: Any) -> None:
    """Write letters to FILE with their original bytes and all headers: JSON Lines, or Parquet if its name ends so.

    JSON has the bytes in base64.
    """
    from streams.export import export as write

    try:
        count = write(_counted(out, _read(places, **wanted), "exported"), file)
    except FileExistsError as error:
        raise Failed(f"{file} exists: name a new file") from error
    except OSError as error:
        raise Failed(f"{file} cannot be written: {error.strerror}") from error
    out.result({"file": str(file), "exported": count}, lambda v: f"{v['exported']:,} letters in {v['file']}")


@letters.command
@click.argument("numbers", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All letters that the options choose.")
@filtered
@shared
def replay(places: Places, out: Out, numbers: tuple[int, ...], everything: bool, **wanted: Any) -> None:
    """Send letters through the ordinary way again, after their contract or their data was mended.

    A change that was accepted meanwhile is not doubled, and a newer value is never overwritten.
    """
    from millrace.repo import open_repo
    from millrace.wiring import producer
    from streams.letters import replay as send

    if bool(numbers) == everything:
        raise click.UsageError("name the letters to replay, or say --all")
    chosen = _read(places, **wanted)
    if numbers:
        named = [letter for letter in chosen if letter.number in numbers]
        if missing := set(numbers) - {letter.number for letter in named}:
            raise Failed(f"there is no letter {min(missing)}: millrace letters list shows the numbers")
        chosen = iter(named)
    sent = send(producer(open_repo(places.repo, places.stack)), _counted(out, chosen, "sent"))
    out.result({"replayed": sent}, lambda value: f"{value['replayed']:,} letters sent again")


def _counted(out: Out, letters: "Iterator[Letter]", done: str) -> "Iterator[Letter]":
    """The letters, with a word about them every SAY_EACH."""
    for count, letter in enumerate(letters, 1):
        yield letter
        if count % SAY_EACH == 0:
            out.say(f"{count:,} letters {done}")


def _read(
    places: Places,
    *,
    start: int = 0,
    table: str | None = None,
    stage: str | None = None,
    reason: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> "Iterator[Letter]":
    from millrace.repo import open_repo
    from millrace.wiring import topics
    from streams.letters import read

    repo = open_repo(places.repo, places.stack)
    earliest = since.replace(tzinfo=UTC).timestamp() if since else 0.0
    latest = until.replace(tzinfo=UTC).timestamp() if until else float("inf")
    for letter in read(topics(repo), repo.letters_topic, start):
        if (
            table in (None, letter.origin.topic)
            and stage in (None, letter.stage)
            and (reason is None or any(reason in text for text in letter.reasons))
            and earliest <= letter.time < latest
        ):
            yield letter


def _line(letter: dict[str, Any]) -> str:
    moment = datetime.fromtimestamp(letter["time"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{letter['letter']:>6}  {moment}  {letter['topic']}  {letter['stage']}: {'; '.join(letter['reasons'])}"
