"""Keeps the registry current, off the request path."""

import logging
import threading
from collections.abc import Callable

from serving.snapshot import Snapshot

log = logging.getLogger("millrace")


class Registry:
    """The newest snapshot of the registry in `current`, taken anew every `seconds` by a thread of its own, which makes
    the plans of the requests that it is likely to get before it is asked.

    While the registry cannot be read, the last snapshot serves on.
    """

    def __init__(self, take: Callable[[], Snapshot], seconds: float) -> None:
        self._take = take
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="registry", daemon=True)
        self.current = take()
        self.current.prepare()

    def start(self) -> None:
        """Refresh from now on."""
        self._thread.start()

    def close(self) -> None:
        """Refresh no longer."""
        self._stop.set()

    def _refresh(self) -> None:
        failing = False
        while not self._stop.wait(self._seconds):
            try:
                taken = self._take()
                applied = taken.fingerprint != self.current.fingerprint
                if applied:
                    taken.prepare(self.current)
            except Exception as error:  # noqa: BLE001  # a registry may be in any store, which raises what it likes
                if not failing:
                    log.error("the registry cannot be read: %s", error, extra={"event": "registry_unreadable"})
                failing = True
                continue
            failing = False
            if applied:
                self.current = taken
                log.info("serves the registry as applied", extra={"event": "registry_applied"})
