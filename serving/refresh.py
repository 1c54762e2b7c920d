"""Keeps the registry current, off the request path."""

import logging
import threading
from collections.abc import Callable

from serving.snapshot import Snapshot
from stores.errors import StoreUnavailable

log = logging.getLogger("millrace")


class Registry:
    """The newest snapshot of the registry, taken anew every `seconds` by a thread of its own, which makes the plans of
    the requests that it is likely to get before it is asked.

    While the registry cannot be read, the last snapshot serves on. Of a process that begins just then there is none
    until it can be: it says so to who asks, and does not end, which could end those that have one.
    """

    def __init__(self, take: Callable[[], Snapshot], seconds: float) -> None:
        self._take = take
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="registry", daemon=True)
        self._newest: Snapshot | None = None
        self._failing = False

    @property
    def taken(self) -> bool:
        """Whether there is a snapshot."""
        return self._newest is not None

    @property
    def current(self) -> Snapshot:
        """The newest snapshot. Raises `StoreUnavailable` where none could be taken yet."""
        if self._newest is None:
            raise StoreUnavailable("the registry", "it could not be read yet")
        return self._newest

    def take(self) -> bool:
        """Take a snapshot now; False if nothing has changed. Raises what `take` raises."""
        taken = self._take()
        if self._newest is not None and taken.fingerprint == self._newest.fingerprint:
            return False
        taken.prepare(self._newest)
        self._newest = taken
        return True

    def look(self) -> None:
        """As `take`; a failure is said once, until the registry can be read."""
        beginning = not self.taken
        try:
            applied = self.take()
        except Exception as error:  # noqa: BLE001  # a registry may be in any store, which raises what it likes
            if not self._failing:
                log.error("the registry cannot be read: %s", error, extra={"event": "registry_unreadable"})
            self._failing = True
            return
        begun = beginning and not self._failing
        self._failing = False
        if applied and not begun:
            log.info("serves the registry as applied", extra={"event": "registry_applied"})

    def start(self) -> None:
        """Refresh from now on."""
        self._thread.start()

    def close(self) -> None:
        """Refresh no longer."""
        self._stop.set()

    def _refresh(self) -> None:
        while not self._stop.wait(self._seconds):
            self.look()
