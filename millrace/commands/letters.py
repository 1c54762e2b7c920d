"""Dead letters: list, show, export, replay."""

import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millrace.cli import Failed, Out, Places, shared

if TYPE_CHECKING:
    from millrace.repo import Repo
    from streams.letters import Letter

SAY_EACH = 10_000
NUMBER = click.IntRange(min=0)


@click.group
def letters() -> None:
    """Dead letters: what was rejected, why, and how to send it again.

    Values of columns that a feature tagged as personal data reads are hidden, except in what --personal asks for.
    """


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
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show at most this many, the newest."
)
@filtered
@shared
def list_(places: Places, out: Out, limit: int, **wanted: Any) -> None:
    """List letters: number, table, stage and reasons. The JSON counts the reasons of all letters by their kinds."""
    from streams.letters import MOST_KINDS, kind_of

    newest: deque[dict[str, object]] = deque(maxlen=limit)  # of all letters, which are kept for ever, without the bytes
    count, kinds = 0, Counter[str]()
    for letter in _read(_open(places), **wanted):
        count += 1
        newest.append(letter.as_dict())
        for kind in map(kind_of, letter.reasons):
            kinds[kind if kind in kinds or len(kinds) < MOST_KINDS else "other"] += 1
    out.result(
        {"count": count, "reasons": dict(kinds.most_common()), "letters": list(newest)},
        lambda value: "\n".join([*map(_line, value["letters"]), _letters(value["count"])]),
    )


PERSONAL = click.option("--personal", is_flag=True, help="Also letters with personal data, whole.")


@letters.command
@click.argument("number", type=NUMBER)
@click.option("--raw", is_flag=True, help="Write the original bytes to stdout, and nothing else.")
@PERSONAL
@shared
def show(places: Places, out: Out, number: int, raw: bool, personal: bool) -> None:
    """Show one letter with its original record; --raw with --personal where that holds personal data."""
    from streams.personal import NOTHING

    repo = _open(places)
    letter = next((x for x in _read(repo, start=number) if x.number == number), None)
    if letter is None:
        raise Failed(f"there is no letter {number}: millrace letters list shows the numbers")
    if raw:
        sys.stdout.buffer.write(next(_whole(repo, iter([letter]), personal)).value or b"")
        return
    columns = repo.personal().get(letter.origin.topic, NOTHING)
    out.result(
        {**letter.as_dict(), "key": columns.key(letter.key), "value": columns.value(letter.value)},
        _show_letter,
    )


@letters.command
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@PERSONAL
@filtered
@shared
def export(places: Places, out: Out, file: Path, personal: bool, **wanted: Any) -> None:
    """Write letters to FILE with their original bytes and all headers: JSON Lines, or Parquet if its name ends so.

    JSON has the bytes in base64.
    """
    from streams.export import export as write

    repo = _open(places)
    try:
        count = write(_counted(out, _whole(repo, _read(repo, **wanted), personal), "exported"), file)
    except FileExistsError as error:
        raise Failed(f"{file} exists: name a new file") from error
    except OSError as error:
        raise Failed(f"{file} cannot be written: {error.strerror}") from error
    out.result({"file": str(file), "exported": count}, lambda v: f"{_letters(v['exported'])} in {v['file']}")


@letters.command
@click.argument("numbers", type=NUMBER, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All letters that the options choose.")
@filtered
@shared
def replay(places: Places, out: Out, numbers: tuple[int, ...], everything: bool, **wanted: Any) -> None:
    """Send letters through the ordinary way again, after their contract or their data was mended.

    A change that was accepted meanwhile is not doubled, and a newer value is never overwritten. Of several letters of
    one record, as replays that failed again leave them, --all sends the newest that the options choose. Letters of a
    table that no view captures any more stay: no worker would read them.
    """
    from millrace.started_anew import wait_anew
    from millrace.wiring import producer
    from streams.letters import NotCaptured, check_captured, one_of_each
    from streams.letters import replay as send

    if bool(numbers) == everything:
        raise click.UsageError("name the letters to replay, or say --all")
    if numbers and any(value is not None for value in wanted.values()):
        raise click.UsageError("the options choose letters for --all alone: leave them out, or the numbers")
    repo = _open(places)
    wait_anew(repo, out.say)
    captured, left_out = repo.personal().keys(), Counter[str]()
    chosen: Iterator[Letter]
    if numbers:
        named = _named(repo, frozenset(numbers))
        try:
            check_captured(named, captured)
        except NotCaptured as error:
            raise Failed(f"{error}, or leave the number out") from error
        chosen = iter(named)
    else:
        chosen = _captured(one_of_each(lambda: _all(repo, 0, wanted["table"]), _wanted(**wanted)), captured, left_out)
    sent = send(producer(repo), _counted(out, chosen, "sent"))
    stay = [f"{_letters(n)} of {table} left out: no view captures it any more" for table, n in left_out.items()]
    out.result(
        {"replayed": sent, "not_captured": left_out.total()},
        lambda value: "\n".join([f"{_letters(value['replayed'])} sent again", *stay]),
    )


def _named(repo: "Repo", numbers: frozenset[int]) -> "list[Letter]":
    """The letters of these numbers. Raises `Failed` if one of them is none."""
    last = max(numbers)
    read = takewhile(lambda letter: letter.number <= last, _read(repo, start=min(numbers)))
    named = [letter for letter in read if letter.number in numbers]
    if missing := numbers - {letter.number for letter in named}:
        raise Failed(f"there is no letter {min(missing)}: millrace letters list shows the numbers")
    return named


def _captured(letters: "Iterator[Letter]", captured: Collection[str], left_out: Counter[str]) -> "Iterator[Letter]":
    """The letters of captured tables; the others are counted in `left_out`, by table."""
    for letter in letters:
        if letter.origin.topic in captured:
            yield letter
        else:
            left_out[letter.origin.topic] += 1


def _counted(out: Out, letters: "Iterator[Letter]", done: str) -> "Iterator[Letter]":
    """The letters, with a word about them every SAY_EACH."""
    for count, letter in enumerate(letters, 1):
        yield letter
        if count % SAY_EACH == 0:
            out.say(f"{count:,} letters {done}")


def _open(places: Places) -> "Repo":
    from millrace.repo import open_repo

    return open_repo(places.repo, places.stack)


def _read(repo: "Repo", start: int = 0, **wanted: Any) -> "Iterator[Letter]":
    """The chosen letters from number `start` on."""
    return filter(_wanted(**wanted), _all(repo, start, wanted.get("table")))


def _all(repo: "Repo", start: int, table: str | None) -> "Iterator[Letter]":
    """Letters with their reasons without personal data: neither shown nor to be guessed by --reason. In the end
    `UnknownTable` if `table` is none: not captured, and without a letter of when it was."""
    from millrace.repo import UnknownTable
    from millrace.wiring import topics
    from streams.letters import read
    from streams.personal import NOTHING

    personal = repo.personal()
    known = {None, *personal}
    for letter in read(topics(repo), repo.letters_topic, start):
        known.add(letter.origin.topic)
        hide = personal.get(letter.origin.topic, NOTHING).reason
        yield replace(letter, reasons=tuple(map(hide, letter.reasons)))
    if table not in known:
        raise UnknownTable(str(table), personal)


def _wanted(
    *,
    table: str | None = None,
    stage: str | None = None,
    reason: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> "Callable[[Letter], bool]":
    """Whether the options of `filtered` choose a letter."""
    earliest = since.replace(tzinfo=UTC).timestamp() if since else 0.0
    latest = until.replace(tzinfo=UTC).timestamp() if until else float("inf")

    def chosen(letter: "Letter") -> bool:
        return (
            table in (None, letter.origin.topic)
            and stage in (None, letter.stage)
            and (reason is None or any(reason in text for text in letter.reasons))
            and earliest <= letter.time < latest
        )

    return chosen


def _whole(repo: "Repo", letters: "Iterator[Letter]", personal: bool) -> "Iterator[Letter]":
    """The letters to be given away with their original bytes, which for personal data has to be asked for."""
    hidden = {topic for topic, columns in repo.personal().items() if columns}
    for letter in letters:
        if letter.origin.topic in hidden and not personal:
            raise Failed(
                f"letter {letter.number} of {letter.origin.topic} holds personal data: say --personal to get it"
            )
        yield letter


def _letters(count: int) -> str:
    return f"{count:,} letter{'' if count == 1 else 's'}"


def _show_letter(letter: dict[str, Any]) -> str:
    moment = datetime.fromtimestamp(letter["time"], UTC).isoformat(timespec="seconds")
    shown = {**letter, "time": f"{letter['time']} ({moment})"}
    return "\n".join(f"{name:10} {content}" for name, content in shown.items())


def _line(letter: dict[str, Any]) -> str:
    moment = datetime.fromtimestamp(letter["time"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{letter['letter']:>6}  {moment}  {letter['topic']}  {letter['stage']}: {'; '.join(letter['reasons'])}"
