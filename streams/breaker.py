"""A table that is mostly rejected is paused: one broken contract must not empty a topic into the letters."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from streams.letters import Rejection, kind_of

REASONS = 3
"""Different ones that are told of a table that is paused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """Pause a table when more than `share` of its last `window` records were rejected, and at least `least`."""

    share: float
    least: int
    window: int = 1_000


@dataclass(slots=True)
class _Recent:
    """The last polls of a topic, each with its records and how many of them were rejected, and their sums."""

    polls: deque[tuple[int, int]] = field(default_factory=deque)
    seen: int = 0
    rejected: int = 0

    def add(self, records: int, rejected: int, window: int) -> None:
        """One more poll; the oldest go as long as those that stay have a window's records."""
        self.polls.append((records, rejected))
        self.seen += records
        self.rejected += rejected
        while len(self.polls) > 1 and self.seen - self.polls[0][0] >= window:
            gone, gone_rejected = self.polls.popleft()
            self.seen -= gone
            self.rejected -= gone_rejected


class Breaker:
    """Counts by topic; `paused` tells which topics tripped it, and why, until they are resumed; `resumed` how often
    they were."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._recent: dict[str, _Recent] = {}
        self.paused: dict[str, str] = {}
        self.resumed: Counter[str] = Counter()

    def trips(self, topic: str, records: int, rejections: Sequence[Rejection]) -> bool:
        """Count one poll's records of a topic; True if it should be paused now."""
        recent = self._recent.setdefault(topic, _Recent())
        recent.add(records, len(rejections), self._settings.window)
        seen, rejected = recent.seen, recent.rejected
        enough = rejected >= self._settings.least and rejected > self._settings.share * seen
        if topic in self.paused or not enough:
            return False
        self.paused[topic] = (
            f"{topic} is paused: {rejected:,} of its last {seen:,} records were rejected ({_first(rejections)}). "
            f"Mend the source, then millrace resume {topic}; or mend the contract or the function, then millrace "
            "apply. millrace letters list shows all reasons"
        )
        return True

    def resume(self, topic: str) -> bool:
        """Let a paused topic go on, its rejects counted anew; False if it was not paused."""
        if self.paused.pop(topic, None) is None:
            return False
        self._recent.pop(topic, None)
        self.resumed[topic] += 1
        return True


def _first(rejections: Sequence[Rejection]) -> str:
    """The first reasons of different kinds."""
    kinds: dict[str, str] = {}
    for rejection in rejections:
        kinds.setdefault(kind_of(rejection.reasons[0]), rejection.reasons[0])
        if len(kinds) == REASONS:
            break
    return "; ".join(kinds.values())
