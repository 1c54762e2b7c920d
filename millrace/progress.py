"""Progress of long work: bars on a terminal, elsewhere a line as each part of it begins."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import Progress, TaskID


class Told(Protocol):
    """Takes how far some work is: `done` of `total`, or of what nobody knows beforehand."""

    def __call__(self, what: str, done: float, total: float | None) -> None: ...


@contextmanager
def progress(say: Callable[[str], None]) -> Iterator[Told]:
    """Shows on stderr what it is told, until the end of the block; `say` has the line where there is no terminal."""
    console = Console(stderr=True)
    tasks: dict[str, TaskID] = {}
    with Progress(console=console, disable=not console.is_terminal) as bars:  # else it leaves blank lines

        def told(what: str, done: float, total: float | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
                if not console.is_terminal:
                    say(what)
            counted = f"{what}: {done:,.0f} rows" if total is None else what
            bars.update(tasks[what], completed=done, total=total, description=counted)

        yield told
