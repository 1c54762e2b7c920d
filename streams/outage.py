"""The time without any broker, which a consumer with nothing to do would not notice by itself."""

import logging
import time

log = logging.getLogger(__name__)

QUIET_SECONDS = 3.0
"""So long without a word of a broker it is asked."""
AGAIN_SECONDS = 2.0
"""How often it is asked while it does not answer."""


class Outage:
    """Says so once when no broker answers any more, and once when one does again; `words` why, None while one does."""

    def __init__(self) -> None:
        self.words: str | None = None
        self._since = 0.0
        self._ask_next = time.monotonic() + QUIET_SECONDS

    def heard(self) -> None:
        """A broker answers."""
        self._ask_next = time.monotonic() + QUIET_SECONDS
        if self.words is not None:
            seconds = round(time.monotonic() - self._since, 1)
            log.info("going on after %s s of waiting", seconds, extra={"event": "going_on", "seconds": seconds})
            self.words = None

    def suspected(self) -> None:
        """Something failed: ask at once, unless it is known."""
        if self.words is None:
            self._ask_next = 0.0

    def silent(self, words: str) -> None:
        """No broker answered when it was asked."""
        self._ask_next = time.monotonic() + AGAIN_SECONDS
        if self.words is None:
            self._since = time.monotonic()
            log.warning("waiting: %s", words, extra={"event": "waiting"})
        self.words = words

    @property
    def ask_now(self) -> bool:
        """Whether it is time to ask a broker for a sign of life."""
        return time.monotonic() >= self._ask_next
