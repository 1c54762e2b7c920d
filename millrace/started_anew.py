"""The workers of all machines, waited for until they go by what was applied."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from millrace.anew import gone_by, noted, process
from millrace.repo import Repo
from millrace.wiring import lake, topics
from streams.broker import BrokerUnavailable

ANEW_SECONDS = 20.0
"""That workers have to start anew after an apply, until when they tell of a table as held: they look every five seconds
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
    """The workers that go by something else, by host and process. While Kafka is away none reads anything."""
    members: Sequence[str] = ()
    with suppress(BrokerUnavailable):
        members = topics(repo).members(repo.group)
    told = [member for member in members if gone_by(member) is not None]
    declared = str(noted(lake(repo), repo.project)) if told else ""
    return sorted(process(member) for member in told if gone_by(member) != declared)
