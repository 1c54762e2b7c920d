"""When a request is sent again, and after which pause.

Only what is safe to repeat: no connection came about, it broke before a response (a lookup changes nothing), or the
server said 503 with Retry-After. Never what has timed out: it may still be at work, and would be doubled just when
the server is slow. Pauses have full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/),
after what the server asked for. Where that is more than is left of the call's time-out, as a whole second mostly is to
a model service, the pause is a part of what is left: a server answers 503 where its one process was full for a moment,
too, and another one is asked next.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from millrace.client.errors import ClientError, TimedOut, Unavailable, Unreachable

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
"""Seconds, of the range that a pause is drawn from."""

LEAST_LEFT = 0.02
"""Seconds below which no other attempt is made."""


@dataclass(slots=True)
class Attempts:
    """The attempts of one call, `retries` beside the first, within `timeout` seconds in all."""

    timeout: float
    retries: int
    draw: Callable[[float, float], float] = random.uniform
    clock: Callable[[], float] = time.monotonic
    _made: int = 0
    _begun: float = field(init=False)

    def __post_init__(self) -> None:
        self._begun = self.clock()

    def left(self) -> float:
        """Seconds that the next attempt may take. Raises `TimedOut` if there are none."""
        left = self._begun + self.timeout - self.clock()
        if left <= 0:
            raise TimedOut(f"no response within {self.timeout:g} s")
        return left

    def pause(self, failure: ClientError) -> float:
        """Seconds to wait before the next attempt. Raises the failure if there is to be none."""
        self._made += 1
        asked = failure.retry_after if isinstance(failure, Unavailable) else 0.0
        safe = isinstance(failure, Unreachable | Unavailable) and asked is not None
        if not safe or self._made > self.retries:
            raise failure
        pause = (asked or 0.0) + self.draw(0.0, min(FIRST_PAUSE * 2 ** (self._made - 1), LONGEST_PAUSE))
        left = self._begun + self.timeout - self.clock()
        if left < LEAST_LEFT:
            raise failure
        return pause if pause < left else self.draw(left / 4, left / 2)
