"""Providers that fail part-way: what was made is kept, and one text that cannot be embedded stops no other."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stores.errors import StoreUnavailable
from stores.rows import FeatureRows, WriteResult
from streams.clock import SystemClock
from streams.embedders import AnswerUnusable, Embedder, Providers
from streams.messages import Records
from streams.patience import Patience
from streams.pipeline import Accepted, Flow, Outcome, embedding
from streams.tally import Tally
from streams.views import project
from streams.writes import Writes
from tests.embedding_server import HangsUp, Server, embedding_server, http_embedder, in_order, vector_of
from tests.unit.test_embed_rows import Known, changes, stream_view, table

MANY_TRIES = 200
TIMEOUT = 0.25


@pytest.fixture
def server() -> Iterator[Server]:
    with embedding_server() as running:
        yield running


class AwayOnce:
    """A vector store that is away when it is first written to."""

    def __init__(self) -> None:
        self.faults = [StoreUnavailable("the vector store", "connection refused")]

    def write(self, batches: Sequence[FeatureRows]) -> WriteResult:
        if self.faults:
            raise self.faults.pop()
        return WriteResult(0, 0)


def outcome_of(titles: Sequence[str]) -> Outcome:
    some, view = changes(*({"title": title} for title in titles)), stream_view(columns=("title",), length=3)
    late = np.zeros(len(titles), bool)
    accepted = Accepted(some, ((view, project(view, some)),), np.arange(len(titles)), {}, Counter(), late)
    flow = Flow(table(), None, (view,))  # type: ignore[arg-type]  # no contract is asked here
    return Outcome(Records("t", [], [], [], []), flow, accepted, [], 0)


class Tries(SystemClock):
    """A clock on which a wait takes no time: it calls `pause`."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self._pause, self._left = pause, MANY_TRIES

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self._left -= 1
        assert self._left, "it comes to no end"
        self._pause()
        return event.is_set()


def written(embedder: Embedder, titles: Sequence[str], pause: Callable[[], None] = lambda: None) -> Outcome:
    """What becomes of a batch of texts; between two tries there is a `pause`."""
    arrived = list[Outcome]()
    with ThreadPoolExecutor(1) as executor:
        writes = Writes(
            AwayOnce(),  # type: ignore[arg-type]  # as much of one as it uses
            embedding(embedder, Known(), lambda embedded: None),
            Tally(),
            Tries(pause),
            executor,
            executor,
            Patience(lambda seconds: None),
            lambda outcomes, result, lost: arrived.extend(outcomes),
        )
        writes.begin([outcome_of(titles)], beside=True)
        writes.finish_of("t")
    return arrived[0]


def vectors(outcome: Outcome) -> list[Any]:
    (rows,) = outcome.rows()
    return rows.table["v"].to_pylist()


TITLES = [f"title {'x' * i}" for i in range(40)]


def test_what_a_provider_made_before_its_limit_is_not_made_again(server: Server) -> None:
    left, sent = 3, Counter[str]()

    def limited(request: dict[str, Any]) -> tuple[int, Any]:
        nonlocal left
        left -= 1
        if left < 0:
            return 429, {"error": "slow down"}
        sent.update(request["input"])
        return in_order(request)

    def minute_is_over() -> None:
        nonlocal left
        left = 3

    server.answer = limited
    outcome = written(http_embedder(server.url, "m", 3, batch=4), TITLES, minute_is_over)
    assert vectors(outcome) == [vector_of(title) for title in TITLES]
    assert sent == Counter(TITLES)


def test_the_next_provider_goes_on_where_the_first_one_stopped(server: Server) -> None:
    sent = Counter[str]()

    def limited(request: dict[str, Any]) -> tuple[int, Any]:
        if request["model"] == "m" and len(server.requests) > 3 and "authorization" not in server.headers[-1]:
            return 429, {"error": "slow down"}
        sent.update(request["input"])
        return in_order(request)

    server.answer = limited
    first = http_embedder(server.url, "m", 3, batch=4)
    second = http_embedder(server.url, "m", 3, batch=4, api_key="key")
    assert vectors(written(Providers([first, second]), TITLES)) == [vector_of(title) for title in TITLES]
    assert sent == Counter(TITLES)


def failed(_: dict[str, Any]) -> tuple[int, Any]:
    return 500, {"error": "the input length exceeds the context length"}


def not_finite(request: dict[str, Any]) -> tuple[int, Any]:
    data = [
        {"index": i, "embedding": [float("nan")] * 3 if "bad" in text else vector_of(text)}
        for i, text in enumerate(request["input"])
    ]
    return 200, json.dumps({"data": data}).encode()


def too_short(request: dict[str, Any]) -> tuple[int, Any]:
    data = [
        {"index": i, "embedding": vector_of(text, 2 if "bad" in text else 3)} for i, text in enumerate(request["input"])
    ]
    return 200, {"data": data}


def hangs_up(_: dict[str, Any]) -> tuple[int, Any]:
    raise HangsUp


def does_not_answer(_: dict[str, Any]) -> tuple[int, Any]:
    time.sleep(2 * TIMEOUT)
    raise HangsUp


@pytest.mark.parametrize("answer", [failed, not_finite, too_short, hangs_up, does_not_answer])
def test_a_text_that_a_provider_goes_on_failing_at_is_refused_alone(
    server: Server, answer: Callable[[dict[str, Any]], tuple[int, Any]]
) -> None:
    sent = Counter[str]()

    def poisoned(request: dict[str, Any]) -> tuple[int, Any]:
        if any("bad" in text for text in request["input"]):
            return answer(request)
        sent.update(text for text in request["input"] if text != "word")
        return in_order(request)

    server.answer = poisoned
    embedder = http_embedder(server.url, "m", 3, batch=8, timeout=TIMEOUT)
    outcome = written(embedder, [*TITLES[:20], "bad", *TITLES[20:], "bad too"])
    assert [rejection.position for rejection in outcome.rejections] == [20, 41]
    assert "its text cannot be embedded" in outcome.rejections[0].reasons[0]
    assert vectors(outcome) == [vector_of(title) for title in TITLES]
    assert sent == Counter(TITLES)


@pytest.mark.parametrize(("status", "told"), [(429, "slow down"), (503, "busy"), (401, "no such key")])
def test_what_is_a_matter_of_time_or_of_settings_is_no_fault_of_the_text(
    server: Server, status: int, told: str
) -> None:
    """A limit in tokens takes a plain word when it takes no long text."""
    tries = 0

    def enough() -> None:
        nonlocal tries
        tries += 1
        if tries == 50:
            server.answer = in_order

    server.answer = lambda request: in_order(request) if request["input"] == ["word"] else (status, {"error": told})
    outcome = written(http_embedder(server.url, "m", 3), ["a long text"], enough)
    assert vectors(outcome) == [vector_of("a long text")] and not outcome.rejections


def test_a_provider_that_needs_longer_for_many_texts_is_asked_for_fewer(server: Server) -> None:
    """And not for more again, as long as the answers take more than half of the time."""

    def slow(request: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(2 if len(request["input"]) > 10 else 0.6)
        return in_order(request)

    server.answer = slow
    outcome = written(http_embedder(server.url, "m", 3, batch=40, timeout=1.0), TITLES)
    assert vectors(outcome) == [vector_of(title) for title in TITLES] and not outcome.rejections
    asked = [len(request["input"]) for request in server.requests]
    assert asked == sorted(asked, reverse=True)


def test_a_request_that_is_too_large_for_a_limit_becomes_smaller(server: Server) -> None:
    def limited(request: dict[str, Any]) -> tuple[int, Any]:
        return in_order(request) if len(request["input"]) <= 10 else (429, {"error": "too many tokens"})

    server.answer = limited
    outcome = written(http_embedder(server.url, "m", 3, batch=40), TITLES)
    assert vectors(outcome) == [vector_of(title) for title in TITLES]


def test_a_limit_that_says_when_it_is_over_is_not_about_a_requests_size(server: Server) -> None:
    tries = 0

    def enough() -> None:
        nonlocal tries
        tries += 1
        if tries == 20:
            server.answer = in_order

    server.answer, server.says = lambda request: (429, {"error": "slow down"}), {"Retry-After": "1"}
    outcome = written(http_embedder(server.url, "m", 3, batch=40), TITLES, enough)
    assert vectors(outcome) == [vector_of(title) for title in TITLES]
    assert {len(request["input"]) for request in server.requests} == {40}


def test_a_provider_that_is_well_again_is_asked_for_as_many_as_before(server: Server) -> None:
    embedder = http_embedder(server.url, "m", 3, batch=8)
    server.answer = failed
    for _ in range(5):
        with pytest.raises(AnswerUnusable):
            embedder.embed(TITLES)
    server.answer = in_order
    server.requests.clear()
    embedder.embed(TITLES)
    assert [len(request["input"]) for request in server.requests] == [1, 2, 4, 8, 8, 8, 8, 1]


class Ill:
    """A provider that fails at `bad` texts, and from one call on for so many calls at everything."""

    model, length = "m", 3

    def __init__(self, well: int, ill: int) -> None:
        self.well, self.ill, self.calls = well, ill, 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls += 1
        if self.well < self.calls <= self.well + self.ill or any("bad" in text for text in texts):
            raise AnswerUnusable("500")
        return np.array([vector_of(text) for text in texts], np.float32)


@settings(max_examples=200)
@given(well=st.integers(0, 60), ill=st.integers(0, 60), bad=st.lists(st.booleans(), min_size=1, max_size=20))
@example(well=13, ill=1, bad=[False, True])
@example(well=18, ill=1, bad=[False, True, False])
def test_an_outage_refuses_no_text(well: int, ill: int, bad: list[bool]) -> None:
    titles = [f"bad {i}" if no else f"title {i}" for i, no in enumerate(bad)]
    outcome = written(Ill(well, ill), titles)
    assert sorted(rejection.position for rejection in outcome.rejections) == [i for i, no in enumerate(bad) if no]
    assert vectors(outcome) == [vector_of(title) for title in titles if "bad" not in title]


def test_a_provider_that_answers_nothing_usable_is_waited_for(server: Server) -> None:
    with pytest.raises(AssertionError, match="it comes to no end"):
        written(Ill(0, 1_000_000), ["one", "two"])
    server.answer = hangs_up
    with pytest.raises(AssertionError, match="it comes to no end"):
        written(http_embedder(server.url, "m", 3), ["one", "two"])
