"""A table that is mostly rejected is paused: one broken contract must not empty a topic into the letters."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from streams.letters import Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """Pause a table when more than `share` of its last `window` records were rejected, and at least `least`."""

    share: float = 0.5
    window: int = 1_000
    least: int = 200


class Breaker:
    """Counts by topic; `paused` tells which topics tripped it, and why, until they are resumed."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._recent: dict[str, deque[tuple[int, int]]] = {}
        self.paused: dict[str, str] = {}

    def trips(self, topic: str, records: int, rejections: Sequence[Rejection]) -> bool:
        """Count one poll's records of a topic; True if it should be paused now."""
        recent = self._recent.setdefault(topic, deque())
        recent.append((records, len(rejections)))
        while len(recent) > 1 and sum(n for n, _ in recent) - recent[0][0] >= self._settings.window:
            recent.popleft()
        seen, rejected = sum(n for n, _ in recent), sum(n for _, n in recent)
        enough = rejected >= self._settings.least and rejected > self._settings.share * seen
        if topic in self.paused or not enough:
            return False
        first = "; ".join(reason for rejection in rejections[:3] for reason in rejection.reasons[:1])
        self.paused[topic] = (
            f"{topic} is paused: {rejected:,} of its last {seen:,} records were rejected ({first}). "
            "Mend the contract or the source, then restart the worker; millrace letters list shows all reasons"
        )
        return True
