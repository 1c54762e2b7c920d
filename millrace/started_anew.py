"""The workers of this machine, waited for until they go by what was applied."""

import time
from collections.abc import Callable

from millrace.anew import noted
from millrace.repo import Repo
from millrace.wiring import lake
from millrace.workers import running_workers

ANEW_SECONDS = 20.0
"""That workers have to start anew after an apply, until when they tell of a table as held: they look every five seconds
and end what they hold first."""

LOOK_SECONDS = 0.2


class NotAnew(Exception):
    """Workers that go on by what was applied before; the text says what to do."""


def wait_anew(repo: Repo, say: Callable[[str], None]) -> None:
    """Return once no worker of this machine goes by anything but the last apply: what one reads before it starts anew
    is judged by the contracts, and made by the functions, of before. Those of other machines are not asked. Raises
    `NotAnew`, and `StoreUnavailable`."""
    deadline, said = time.monotonic() + ANEW_SECONDS, False
    while old := _old(repo):
        if time.monotonic() > deadline:
            raise NotAnew(
                f"workers {', '.join(old)} still go by what was applied before, {ANEW_SECONDS:g} s later, and nothing "
                "was begun: millrace status says what they wait for"
            )
        if not said:
            say("waiting for the workers of this machine to start anew, as something else was applied")
        said = True
        time.sleep(LOOK_SECONDS)


def _old(repo: Repo) -> list[str]:
    """The workers of this machine that go by something else, by process."""
    workers = running_workers(repo.workers_folder)
    declared = noted(lake(repo), repo.project) if workers else None
    return [name for name, state in workers.items() if state["declared"] != declared]
