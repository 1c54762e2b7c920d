"""The workers, waited for until they go by what was applied: those of all machines, which tell the consumer group."""

import time
from collections.abc import Callable
from contextlib import suppress

from millrace.anew import gone_by, noted, process_name
from millrace.repo import Repo
from millrace.wiring import lake, topics
from millrace.workers import running_workers
from streams.broker import BrokerUnavailable

ANEW_SECONDS = 20.0
"""That workers have to start anew after an apply, until when they tell of a table as held: they look each second,
and end what they hold first. One that was killed is a member of the group for ten."""

LOOK_SECONDS = 0.2


class NotAnew(Exception):
    """Workers that go on by what was applied before; the text says what to do."""


def wait_anew(repo: Repo, say: Callable[[str], None]) -> None:
    """Return once no worker goes by anything but the last apply: what one reads before it starts anew is judged by the
    contracts, and made by the views and functions, of before. Raises `NotAnew`, and `StoreUnavailable`."""
    deadline, said = time.monotonic() + ANEW_SECONDS, False
    while old := _old(repo):
        if time.monotonic() > deadline:
            raise NotAnew(
                f"workers {', '.join(old)} (host and process) still go by what was applied before, {ANEW_SECONDS:g} s "
                "later, and nothing was begun: millrace status there says what they wait for"
            )
        if not said:
            say("waiting for the workers to start anew, as something else was applied")
        said = True
        time.sleep(LOOK_SECONDS)


def _old(repo: Repo) -> list[str]:
    """The workers that go by something else, by host and process. Those of this machine are asked, too: they have rows
    yet to write while Kafka is away."""
    here = running_workers(repo.workers_folder).items()
    told = {process_name(pid): str(state.get("declared")) for pid, state in here}
    with suppress(BrokerUnavailable):
        members = [gone_by(repo.project, client) for client in topics(repo).members(repo.group)]
        told |= dict(member for member in members if member is not None)
    declared = str(noted(lake(repo), repo.project)) if told else ""
    return sorted(process for process, goes_by in told.items() if goes_by != declared)
