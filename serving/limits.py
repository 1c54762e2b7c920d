"""Rate limits of keys that hold across processes, without a round trip in any request.

Each process counts what it admits and, off the request path, reports it to the shared token buckets
(`KeyStore.spend`), which answer with what is left for everybody. Between two reports a process spends what was left;
what several of them spend at once overdraws the bucket, and nobody is admitted until the seconds that follow have
paid for it. So over time a key never gets more than its rate; within a moment it gets at most one second's worth from
each process.

Where no report comes through, refused or never answered, each process holds the limit alone, by its own clock.
"""

import threading
import time
from collections.abc import Callable, Sequence

from stores.access_keys import AccessKey, Spent
from stores.errors import StoreRefused, StoreUnavailable

Spend = Callable[[Sequence[Spent]], list[float]]

SETTLE_SECONDS = 0.1
"""Between two reports."""
ALONE_SECONDS = 2 * SETTLE_SECONDS
"""After the last report, until a process goes on without."""


class Bucket:
    """One limit of one key, as this process knows it."""

    __slots__ = ("balance", "full", "name", "per_second", "settled", "unreported")

    def __init__(self, name: str, per_second: float) -> None:
        self.name = name
        self.per_second = per_second
        self.full = max(per_second, 1.0)
        self.balance = self.full
        self.unreported = 0.0
        self.settled = True
        """Whether the last report found it full: nothing is to be learned until something is spent."""

    def wait(self, cost: float) -> float:
        """Seconds until so much may be spent, 0 if it may be now. What costs more than a full bucket may overdraw a
        full one."""
        return max(min(cost, self.full) - self.balance, 0.0) / self.per_second


class Limits:
    """The buckets of all keys that have limits. May be shared by threads."""

    def __init__(self, spend: Spend, clock: Callable[[], float] = time.monotonic) -> None:
        self._spend = spend
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[tuple[Bucket, bool], ...]] = {}
        self._at = clock()
        """When the balances were as they stand."""

    def keep(self, keys: Sequence[AccessKey]) -> None:
        """These are the keys from now on; what is known of those that stay, stays."""
        with self._lock:
            self._buckets = {key.id: self._buckets.get(key.id) or _buckets(key) for key in keys}

    def wait(self, key_id: str, entities: int) -> float:
        """Seconds to wait until a request for so many entities may come; 0 if it may now. Nothing is counted."""
        return self._asked(key_id, entities, counted=False)

    def take(self, key_id: str, entities: int) -> float:
        """As `wait`, and if it may come now it is counted."""
        return self._asked(key_id, entities, counted=True)

    def _asked(self, key_id: str, entities: int, counted: bool) -> float:
        buckets = self._buckets.get(key_id, ())
        if not buckets:
            return 0.0
        now = self._clock()
        with self._lock:
            if now - self._at > ALONE_SECONDS:
                self._credit(now)
            for bucket, by_entity in buckets:
                if wait := bucket.wait(entities if by_entity else 1):
                    return wait
            for bucket, by_entity in buckets if counted else ():
                cost = entities if by_entity else 1
                bucket.balance -= cost
                bucket.unreported += cost
        return 0.0

    def settle(self) -> None:
        """Report what was spent, and learn what is left: every `SETTLE_SECONDS`. Raises `StoreUnavailable` and
        `StoreRefused`: until the store takes reports again, this process alone holds the limits."""
        with self._lock:
            every = [bucket for buckets in self._buckets.values() for bucket, _ in buckets]
            active = [bucket for bucket in every if bucket.unreported or not bucket.settled]
            amounts = [bucket.unreported for bucket in active]
            for bucket in active:
                bucket.unreported = 0.0
            if not active:
                self._at = self._clock()
                return
        reports = [Spent(b.name, b.per_second, amount) for b, amount in zip(active, amounts, strict=True)]
        try:
            balances = self._spend(reports)
        except (StoreUnavailable, StoreRefused):
            with self._lock:
                for bucket in active:
                    bucket.settled = False
                self._credit(self._clock())
            raise
        with self._lock:
            self._at = self._clock()
            for bucket, balance in zip(active, balances, strict=True):
                bucket.settled = balance >= bucket.full
                bucket.balance = balance - bucket.unreported

    def _credit(self, now: float) -> None:
        """What the seconds since have paid back, as far as this process knows."""
        elapsed, self._at = now - self._at, now
        for buckets in self._buckets.values():
            for bucket, _ in buckets:
                bucket.balance = min(bucket.balance + elapsed * bucket.per_second, bucket.full)


def _buckets(key: AccessKey) -> tuple[tuple[Bucket, bool], ...]:
    """The buckets of a key, each with whether it counts entities."""
    found = []
    if key.requests_per_second:
        found.append((Bucket(f"{key.id}:requests", key.requests_per_second), False))
    if key.entities_per_second:
        found.append((Bucket(f"{key.id}:entities", key.entities_per_second), True))
    return tuple(found)
