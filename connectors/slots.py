"""The replication slots of all sources, looked at while nobody watches."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from connectors.health import SlotHealth, slot_health
from connectors.source import Source, SourceUnavailable

log = logging.getLogger(__name__)

SECONDS = 10.0

CLOSE_SECONDS = 1.0

CONNECT_SECONDS, LIFE_SECONDS = 5, 10.0
"""For a connection, and for all answers over it: all other sources wait while one is asked."""

Slots = Callable[[], Mapping[str, SlotHealth | str]]
"""The last known state of each source's slot, or why there is none."""


class SlotWatch:
    """Asks each source for its slot every `seconds` on a thread of its own. What is wrong is logged once, until it
    changes. `slots` is what it saw last; a source that was not asked yet is not among them."""

    def __init__(self, sources: Sequence[Source], seconds: float = SECONDS) -> None:
        self._sources = sources
        self._seconds = seconds
        self._seen: dict[str, SlotHealth | str] = {}
        self._said: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slots", daemon=True)
        self._thread.start()

    def slots(self) -> Mapping[str, SlotHealth | str]:
        """See `Slots`."""
        return dict(self._seen)

    def close(self) -> None:
        """Stop looking. A look under way is waited for, but not long: a process that ends beside one prints what of its
        native modules it could not free."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            for source in self._sources:
                seen = self._seen[source.name] = _look(source)
                self._say(source.name, seen if isinstance(seen, str) else "; ".join(slot_problems(source.name, seen)))
            if self._stop.wait(self._seconds):
                return

    def _say(self, name: str, trouble: str) -> None:
        before, self._said[name] = self._said.get(name, ""), trouble
        if trouble and trouble != before:
            log.warning("%s", trouble, extra={"event": "slot_wrong", "source": name})
        elif before and not trouble:
            told = "the replication slot of source %s is well again"
            log.info(told, name, extra={"event": "slot_back", "source": name})


def _look(source: Source) -> SlotHealth | str:
    try:
        with source.opened(CONNECT_SECONDS, LIFE_SECONDS) as engine:
            return slot_health(engine, source) or no_slot(source)
    except SourceUnavailable as error:
        return str(error)


def no_slot(source: Source) -> str:
    """What to do about a source without a slot."""
    return (
        f"source {source.name} has no replication slot {source.slot}: run millrace recover {source.name}, "
        "or millrace apply if it never had one"
    )


def slot_problems(source: str, health: SlotHealth) -> list[str]:
    """What is wrong with a slot, a sentence each."""
    problems = []
    if not health.active:
        problems.append(f"nothing reads the replication slot of source {source}: PostgreSQL keeps its WAL until then")
    if health.wal_status == "unreserved":
        problems.append(f"the replication slot of source {source} is unreserved: changes may be lost any moment")
    if health.wal_status == "lost":
        problems.append(f"the replication slot of source {source} is lost: run millrace recover {source}")
    return problems
