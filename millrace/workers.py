"""The workers of this machine. Each leaves a note where it listens, in a file named by its process; by that `millrace
status` and the other commands find them."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from millrace.stack.daemon import birth

SECONDS = 5
"""That a worker has to answer in."""

DIRECT = build_opener(ProxyHandler({}))
"""Without the proxies that the environment names: a worker of this machine is not behind one."""

STARTING = "starting"
"""The note of a worker that does not listen yet: it imports, or waits for its stores. The birth of its process
follows."""

OF_A_WORKER = frozenset({"waiting_for", "paused", "key_changes_lost", "resumed", "partitions", "staged_rows"})
"""What every worker tells of its health (`millrace.commands.stream`), by which its answer is known."""


@contextmanager
def announced(folder: Path) -> Iterator[Callable[[str], None]]:
    """Note that this process is a worker, `STARTING` until what is yielded is told otherwise, while the block runs. A
    process that replaces itself within the block goes on with its note. A folder that cannot be written has none."""
    note = folder / str(os.getpid())

    def write(text: str) -> None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            note.write_text(f"{STARTING} {birth(os.getpid())}" if text == STARTING else text)

    write(STARTING)
    try:
        yield write
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)


def running_workers(folder: Path) -> dict[str, dict[str, Any]]:
    """The health of each worker of this machine, by process; one that is gone or only starting has no say."""
    notes = sorted(folder.glob("*")) if folder.is_dir() else []
    if not notes:
        return {}
    with ThreadPoolExecutor(len(notes)) as threads:
        answers = zip(notes, threads.map(_ask, notes), strict=True)
        return {note.name: state for note, state in answers if state is not None}


def starting_workers(folder: Path) -> list[str]:
    """The workers of this machine that do not listen yet, by process."""
    notes = sorted(folder.glob("*")) if folder.is_dir() else []
    return [note.name for note in notes if _starts(note)]


def _starts(note: Path) -> bool:
    """Whether the worker whose note this is does not listen yet: one that was killed left its note, and another program
    may have its pid by now."""
    said, _, born = _read(note).partition(" ")
    return said == STARTING and note.name.isdecimal() and birth(int(note.name)) == born


def _read(note: Path) -> str:
    """What a note says; empty of a worker that has just left."""
    try:
        return note.read_text()
    except OSError:
        return ""


def _ask(note: Path) -> dict[str, Any] | None:
    """The health of the worker whose note this is. None if it does not answer: a worker that was killed left its note,
    and another program, or another worker, may have its port by now."""
    try:
        state = json.loads(_get(_read(note)))
    except (OSError, HTTPException, ValueError):
        return None
    if not isinstance(state, dict) or not state.keys() >= OF_A_WORKER:
        return None
    # One of an earlier version, which goes on through an upgrade, does not tell who it is.
    process, project = note.name, note.parent.name
    its_own = (str(state.get("pid", process)), state.get("project", project)) == (process, project)
    return state if its_own else None


def _get(address: str) -> bytes:
    """The body of the answer, whatever its status."""
    try:
        with DIRECT.open(address, timeout=SECONDS) as answer:
            return bytes(answer.read())
    except HTTPError as waiting:
        return waiting.read()
