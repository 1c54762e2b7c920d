"""A worker starts anew when one of its tables was applied again: new columns, other types, views, functions, another
contract; and when a table was added to those that are captured, or taken away."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping

from connectors.table import Table
from stores.errors import StoreUnavailable
from stores.lake import Lake
from streams.drift import applied_table, declared_digest

log = logging.getLogger(__name__)

SECONDS = 5.0

CLOSE_SECONDS = 1.0


def noted(lake: Lake, topics: Collection[str]) -> dict[str, str | None]:
    """What the last apply noted of the topics. To be read before what it declared: of an apply between the two a watch
    then tells. Raises `StoreUnavailable`."""
    return {topic: declared_digest(lake, topic) for topic in topics}


class AppliedWatch:
    """Looks every `seconds`, on a thread of its own, whether a topic's table is still the one that the worker knows,
    and declared as `noted` says, and sets `stop` if not; `seen` then tells which. A topic that is `held` need only be
    applied again."""

    def __init__(
        self,
        lake: Lake,
        tables: Mapping[str, Table],
        noted: Mapping[str, str | None],
        stop: threading.Event,
        held: Callable[[], Collection[str]],
        seconds: float = SECONDS,
    ) -> None:
        self._held = held
        self._lake = lake
        self._tables = {topic: (table, applied_table(lake, topic)[1]) for topic, table in tables.items()}
        self._noted = noted
        self._stop = stop
        self._seconds = seconds
        self.seen: str | None = None
        self._thread = threading.Thread(target=self._run, name="applied", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking, and set `stop`. A look under way is waited for, but not long."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def _changed(self, topic: str) -> bool:
        (table, applied), (table_now, applied_now) = self._tables[topic], applied_table(self._lake, topic)
        again = applied != applied_now and topic in self._held()
        return again or table != table_now or self._noted.get(topic) != declared_digest(self._lake, topic)

    def _run(self) -> None:
        while self.seen is None and not self._stop.wait(self._seconds):
            try:
                changed = [topic for topic in self._tables if self._changed(topic)]
            except StoreUnavailable:
                continue  # the worker itself waits for the lake, aloud
            if changed:
                self.seen = changed[0]
                told = "%s was applied again: the worker starts anew"
                log.info(told, self.seen, extra={"event": "applied", "table": self.seen})
                self._stop.set()
