"""Limits of a key over several processes, on a clock of the test's own and a double of the shared buckets."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.limits import Limits
from stores.access_keys import AccessKey, Spent
from stores.errors import StoreUnavailable


@dataclass
class Shared:
    """The shared buckets, as `stores.access_keys` keeps them in Redis."""

    now: float = 0.0
    away: bool = False
    buckets: dict[str, tuple[float, float]] = field(default_factory=dict)
    reports: int = 0

    def clock(self) -> float:
        return self.now

    def spend(self, spent: Sequence[Spent]) -> list[float]:
        if self.away:
            raise StoreUnavailable("Redis", "away")
        self.reports += 1
        balances = []
        for one in spent:
            full = max(one.per_second, 1.0)
            held, at = self.buckets.get(one.bucket, (full, self.now))
            balance = min(full, held + (self.now - at) * one.per_second) - one.amount
            self.buckets[one.bucket] = (balance, self.now)
            balances.append(balance)
        return balances


def limits(shared: Shared, requests: float = 0.0, entities: float = 0.0) -> Limits:
    made = Limits(shared.spend, shared.clock)
    made.keep([AccessKey("model", "id", "", requests_per_second=requests, entities_per_second=entities)])
    return made


def test_without_a_limit_nothing_is_counted() -> None:
    shared = Shared()
    free = limits(shared)
    assert not any(free.take("id", 1_000_000) for _ in range(100))
    free.settle()
    assert shared.reports == 0


def test_a_seconds_worth_at_once_and_then_the_rate() -> None:
    shared = Shared()
    one = limits(shared, requests=10)
    assert [one.take("id", 1) for _ in range(10)] == [0.0] * 10
    assert one.take("id", 1) == pytest.approx(0.1)
    one.settle()
    shared.now += 0.25
    one.settle()
    assert [one.take("id", 1) == 0.0 for _ in range(4)] == [True, True, False, False]


def test_entities_count_by_number_and_a_refused_request_costs_nothing() -> None:
    one = limits(Shared(), requests=100, entities=50)
    assert one.take("id", 40) == 0.0
    assert one.take("id", 20) == pytest.approx(0.2)
    assert one.take("id", 10) == 0.0


def test_to_look_whether_a_request_may_come_counts_nothing() -> None:
    shared = Shared()
    one = limits(shared, requests=100, entities=50)
    assert [one.wait("id", 50) for _ in range(200)] == [0.0] * 200
    one.settle()
    assert shared.reports == 0
    assert one.take("id", 40) == 0.0
    assert one.wait("id", 20) == one.take("id", 20) == pytest.approx(0.2)


def test_more_entities_than_a_second_allows_are_paid_back() -> None:
    shared = Shared()
    one = limits(shared, entities=100)
    assert one.take("id", 500) == 0.0
    for _ in range(39):
        shared.now += 0.1
        one.settle()
        assert one.take("id", 1) > 0
    shared.now += 0.3
    one.settle()
    assert one.take("id", 1) == 0.0


def test_a_key_that_stays_keeps_its_debt_when_the_keys_are_read_anew() -> None:
    one = limits(Shared(), requests=1)
    key = AccessKey("model", "id", "", requests_per_second=1)
    assert one.take("id", 1) == 0.0
    one.keep([key])
    assert one.take("id", 1) > 0
    one.keep([])
    one.keep([key])
    assert one.take("id", 1) == 0.0


def test_a_process_alone_holds_the_limit_while_the_store_is_away() -> None:
    shared = Shared()
    one = limits(shared, requests=10)
    admitted = 0
    shared.away = True
    for _ in range(50):
        admitted += sum(one.take("id", 1) == 0.0 for _ in range(20))
        shared.now += 0.1
        with pytest.raises(StoreUnavailable):
            one.settle()
    assert admitted == pytest.approx(10 + 50, abs=3)
    shared.away = False
    one.settle()
    assert one.take("id", 1) == 0.0


def test_a_process_alone_holds_the_limit_while_the_store_is_silent() -> None:
    """A report that is neither taken nor refused, for five seconds: the rate is admitted meanwhile, and once."""
    shared, asked, answered = Shared(), threading.Event(), threading.Event()

    def spend(spent: Sequence[Spent]) -> list[float]:
        asked.set()
        answered.wait(60)
        raise StoreUnavailable("Redis", "silent")

    def settle() -> None:
        with suppress(StoreUnavailable):
            one.settle()

    one = Limits(spend, shared.clock)
    one.keep([AccessKey("model", "id", "", requests_per_second=10)])
    admitted = sum(one.take("id", 1) == 0.0 for _ in range(20))
    reporting = threading.Thread(target=settle, daemon=True)
    reporting.start()
    assert asked.wait(60)
    for _ in range(50):
        shared.now += 0.1
        admitted += sum(one.take("id", 1) == 0.0 for _ in range(20))
    assert admitted == pytest.approx(10 + 50, abs=3)
    answered.set()
    reporting.join()
    admitted += sum(one.take("id", 1) == 0.0 for _ in range(20))
    assert admitted <= 10 + 50


def test_an_idle_process_asks_nothing_once_its_bucket_is_full() -> None:
    shared = Shared()
    one = limits(shared, requests=10)
    one.take("id", 1)
    for _ in range(5):
        shared.now += 0.1
        one.settle()
    assert shared.reports == 2


@settings(max_examples=60)
@given(
    processes=st.integers(1, 4),
    rate=st.integers(1, 200),
    offers=st.lists(st.lists(st.integers(0, 60), min_size=4, max_size=4), min_size=20, max_size=80),
)
def test_over_time_no_key_gets_more_than_its_rate(processes: int, rate: int, offers: list[list[int]]) -> None:
    """However the requests fall on the processes: what is admitted stays below the rate over the time, and one
    second's worth from each process."""
    shared = Shared()
    several = [limits(shared, requests=rate) for _ in range(processes)]
    admitted = 0
    for offered in offers:
        for one, count in zip(several, offered, strict=False):
            admitted += sum(one.take("id", 1) == 0.0 for _ in range(count))
        shared.now += 0.1
        for one in several:
            one.settle()
        assert admitted <= rate * shared.now + processes * max(rate, 1)
