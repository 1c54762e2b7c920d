"""The console without a server: sessions, escaping, what is known of the platform."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import millrace.console
from millrace.console import LETTERS, RepoPlatform, newest_letters, platform_state
from millrace.repo import open_repo
from serving.console.latest import Latest
from serving.console.look_up import Shown, as_text
from serving.console.platform import (
    LetterLine,
    PlatformState,
    PlatformUnavailable,
    ReplayRefused,
    SlotState,
    TableState,
    WorkerState,
)
from serving.console.render import duration, page, size
from serving.console.sessions import COOKIE, SECONDS, Sessions, of_form
from serving.console.views import ViewRow, view_rows
from streams.letters import OFFSET, PARTITION, REASONS, STAGE, TIME, TOPIC, DeadLetters, Rejection
from streams.memory import MemoryBroker, MemoryProducer, MemoryTopics
from streams.messages import Partition, Records
from streams.personal import PersonalColumns
from tests.envelopes import TOPIC as TABLE
from tests.envelopes import records
from tests.unit.command_repo import capture, command_repo

EVIL = "<script>alert('x')</script>\"'&"
COMMON: dict[str, Any] = {
    "project": EVIL,
    "keyed": True,
    "nav": (("/console", "Views"),),
    "here": "/console",
    "caller_name": EVIL,
    "token": "t",
}


class Known:
    """As `serving.console.latest.Known`."""

    def __init__(self, value: object, trouble: str = "") -> None:
        self.value, self.age, self.trouble = value, 1.0, trouble


STATE = PlatformState(
    captured={"view": EVIL},
    tables={EVIL: TableState(5, 4, 3, 2, 0.025, None, EVIL)},
    stores={EVIL: EVIL},
    problems=[EVIL],
)
LETTER = LetterLine(7, EVIL, 0, 9, EVIL, (EVIL, EVIL), 1_360_638_000.0)
FOUND = [Shown(EVIL, EVIL, "PRESENT", EVIL, 61.0)]
ROW = ViewRow(EVIL, EVIL, 3, 60.0, EVIL, STATE.tables[EVIL], LETTER)


class Target:
    """As `serving.console.look_up.Target`."""

    name, fields, withheld = EVIL, [(EVIL, EVIL)], [EVIL]


PAGES: dict[str, dict[str, Any]] = {
    "login": {"trouble": EVIL},
    "trouble": {"heading": EVIL, "detail": EVIL},
    "views": {"state": Known(STATE), "rows": [ROW]},
    "lookup": {
        "views": [EVIL],
        "services": [EVIL],
        "of": EVIL,
        "target": Target(),
        "form": {EVIL: EVIL},
        "found": FOUND,
    },
    "search": {"views": [EVIL], "view": EVIL, "text": EVIL, "top": EVIL, "names": [EVIL], "rows": [[EVIL]]},
    "lag": {"state": Known(STATE)},
    "letters": {"letters": Known([LETTER]), "may_replay": True, "told": EVIL},
}


@pytest.mark.parametrize("name", PAGES)
def test_nothing_that_is_shown_becomes_markup(name: str) -> None:
    text = page(name, **COMMON, **PAGES[name]).decode()
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&#39;&amp;" in text
    assert text.count("<h1>") == 1 and '<html lang="en">' in text and 'name="viewport"' in text


@pytest.mark.parametrize("name", ["views", "lag"])
def test_a_platform_that_is_not_seen_is_named(name: str) -> None:
    values = {**PAGES[name], "state": Known(None, "Kafka at nowhere:9 does not answer")}
    assert "The platform is not seen: Kafka at nowhere:9" in page(name, **COMMON, **values).decode()


def test_replay_is_offered_to_who_may() -> None:
    shown = {"letters": Known([LETTER]), "told": ""}
    assert b"/console/replay" in page("letters", **COMMON, **shown, may_replay=True)
    assert b"/console/replay" not in page("letters", **COMMON, **shown, may_replay=False)


def test_a_session_is_known_until_it_ends() -> None:
    now = [1_000_000.0]
    sessions = Sessions(lambda: now[0])
    begun = sessions.begin("0123456789abcdef")
    cookies = f"other=1; {COOKIE}={begun.cookie}; more=2"
    assert sessions.known(cookies) == begun
    now[0] += SECONDS - 1
    assert sessions.known(cookies) == begun
    now[0] += 1
    assert sessions.known(cookies) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda cookie: "f" + cookie[1:],
        lambda cookie: cookie[:-1] + ("0" if cookie[-1] != "0" else "1"),
        lambda cookie: cookie.replace(".", ".9", 1),
        lambda cookie: cookie[16:],
        lambda cookie: "",
        lambda cookie: "é",
    ],
)
def test_a_cookie_that_is_not_ours_is_no_session(change: object) -> None:
    assert callable(change)
    sessions = Sessions(lambda: 1_000_000.0)
    cookie = sessions.begin("0123456789abcdef").cookie
    assert sessions.known(f"{COOKIE}={change(cookie)}") is None
    assert Sessions(lambda: 1_000_000.0).known(f"{COOKIE}={cookie}") is None


def test_a_form_is_of_its_session() -> None:
    sessions = Sessions()
    one, other = sessions.begin(""), sessions.begin("")
    assert of_form(one, one.token)
    assert not of_form(one, other.token) and not of_form(one, "") and not of_form(one, "é\udc80")


def test_a_slow_question_is_put_once_at_a_time_and_kept() -> None:
    asked: list[int] = []
    gate = threading.Event()

    def slow() -> int:
        asked.append(1)
        gate.wait(10)
        return len(asked)

    async def visits() -> list[int | None]:
        latest = Latest(slow, PlatformUnavailable)
        waiting = [asyncio.create_task(latest.known()) for _ in range(5)]
        await asyncio.sleep(0)
        gate.set()
        return [known.value for known in await asyncio.gather(*waiting)] + [(await latest.known()).value]

    assert asyncio.run(visits()) == [1] * 6


def test_what_failed_is_told_and_nothing_of_an_unforeseen_failure() -> None:
    def fails(error: Exception) -> str:
        def ask() -> int:
            raise error

        return asyncio.run(Latest(ask, PlatformUnavailable).known()).trouble

    assert fails(PlatformUnavailable("Kafka is away")) == "Kafka is away"
    assert "secret" not in fails(RuntimeError("secret"))


class Letters:
    """A letters topic of 150 letters; `start` is where it was read from."""

    start = -1

    def committed(self, group: str, topics: Sequence[str]) -> dict[Partition, tuple[int, int]]:
        return {Partition("letters", 0): (0, 150)}

    def ping(self) -> None:
        """It answers."""

    def ensure(self, topics: object, settings: object) -> Sequence[str]:
        return []

    def read(self, topic: str, start: int = 0) -> Iterator[Records]:
        self.start = start
        offsets = list(range(start, 150))
        headers = {
            TOPIC: b"shop.public.customers",
            PARTITION: b"0",
            OFFSET: b"5",
            STAGE: b"contract",
            REASONS: b'["expect_column_values_to_be_in_set on email: x@y.z", "expect_it on tier: gold"]',
            TIME: b"1.5",
        }
        count = len(offsets)
        yield Records(topic, [0] * count, offsets, [b""] * count, [b""] * count, dict.fromkeys(range(count), headers))

    def members(self, group: str) -> Sequence[str]:
        return []


def test_the_newest_letters_without_personal_data() -> None:
    topics = Letters()
    personal = {"shop.public.customers": PersonalColumns(frozenset({"email"}))}
    found = newest_letters(topics, "group", "letters", personal)
    assert (topics.start, len(found), found[0].number, found[-1].number) == (50, LETTERS, 149, 50)
    assert found[0].reasons == (
        "expect_column_values_to_be_in_set on email: (personal data)",
        "expect_it on tier: gold",
    )


@pytest.mark.parametrize("ask", [RepoPlatform.state, RepoPlatform.letters, lambda platform: platform.replay(0)])
def test_a_page_makes_no_registry_where_there_is_none(ask: Callable[[RepoPlatform], object], tmp_path: Path) -> None:
    command_repo(tmp_path)
    with pytest.raises(PlatformUnavailable, match="there is no registry at"):
        ask(RepoPlatform(open_repo(tmp_path, tmp_path)))
    assert not (tmp_path / "registry.db").exists()


def test_a_letter_is_replayed_if_its_table_is_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = "shop.public.gone"
    broker = MemoryBroker({TABLE: 1, gone: 1, "shop.letters": 1})
    letters = DeadLetters(MemoryProducer(broker), "shop.letters")
    for table in (TABLE, gone):
        letters.send(replace(records((b"key", b"bad")), topic=table), [Rejection(0, "contract", ("odd",))], "v1")
    letters.flush()
    monkeypatch.setattr(millrace.console, "topics", lambda repo: MemoryTopics(broker))
    monkeypatch.setattr(millrace.console, "producer", lambda repo: MemoryProducer(broker))
    command_repo(tmp_path)
    capture(tmp_path, TABLE)
    platform = RepoPlatform(open_repo(tmp_path, tmp_path))
    assert [platform.replay(number) for number in (0, 2)] == [True, False]
    assert [record.value for record in broker.log[Partition(TABLE, 0)]] == [b"bad"]
    with pytest.raises(ReplayRefused, match=f"letter 1 is of {gone}, which no view captures.* millrace apply"):
        platform.replay(1)
    assert not broker.log.get(Partition(gone, 0))


def test_the_state_is_that_of_all_workers() -> None:
    worker = {
        "tables": {"t": {"accepted": 2, "rejected": 1}},
        "freshness": {"t": {"p50": 0.1, "p99": None}},
        "paused": {},
        "partitions": ["t/0"],
        "staged_rows": 3,
        "waiting_for": None,
    }
    other = {**worker, "freshness": {"t": {"p50": 0.3, "p99": 0.5}}, "paused": {"t": "too many rejects"}}
    status = {
        "workers": {"1": worker, "2": other},
        "lag": {"t": 9},
        "connectors": {"shop": "RUNNING"},
        "slots": {},
        "stores": {"online": "answers"},
        "problems": [],
    }
    state = platform_state({"view": "t"}, status)
    assert state.tables == {"t": TableState(9, 4, 2, 0, 0.3, 0.5, "too many rejects")}
    assert state.sources["shop"].connector == "RUNNING" and state.sources["shop"].behind is None
    assert state.workers["1"].partitions == 1


def test_each_view_is_shown_with_its_table_and_the_last_reject_of_that() -> None:
    facts = SimpleNamespace(
        entity_columns=[SimpleNamespace(name="id")], ttl=timedelta(hours=2), features=[1, 2], join_keys=["id"]
    )
    derived = SimpleNamespace(features=[1])
    snapshot: Any = SimpleNamespace(views={"facts": facts, "derived": derived})
    state = PlatformState({"facts": "t"}, {"t": TableState(9, 4_321, 2, 0, 0.025, 0.5, "")})
    letters = [LetterLine(at, "t", 0, at, "contract", (f"reason {at}",), 1_360_638_000.0) for at in (8, 7)]
    derived_row, row = view_rows(snapshot, state, [LetterLine(9, "other", 0, 9, "decode", ("no",), 1.0), *letters])
    assert (derived_row.name, derived_row.table, derived_row.state, derived_row.letter) == ("derived", "", None, None)
    assert row == ViewRow("facts", "id", 2, 7_200.0, "t", state.tables["t"], letters[0])
    shown = words(page("views", **COMMON, state=Known(state), rows=[row]))
    assert "facts by id; 2 features; lives 2 h 0 min t 25 ms 500 ms 4,321 2 9 2013-02-12" in shown
    assert shown.endswith("reason 8")


def test_the_lag_of_the_group_and_of_the_slots_is_shown() -> None:
    state = PlatformState(
        tables={"t": TableState(9, 4, 3, 2, None, None, "too many rejects")},
        sources={"shop": SlotState("RUNNING", "active, reserved", 12, 5_000_000, None)},
        workers={"77": WorkerState(2, 30, "Redis: away")},
    )
    shown = words(page("lag", **COMMON, state=Known(state)))
    assert "t 9 4 3 2 too many rejects" in shown
    assert "shop RUNNING active, reserved 12 B 5 MB –" in shown
    assert "77 2 30 Redis: away" in shown


def words(html: bytes) -> str:
    """What stands on a page, without its marks."""
    return " ".join(re.sub(r"<[^>]*>", " ", html.decode()).split())


def test_numbers_are_for_people() -> None:
    assert [duration(s) for s in (None, 0.0254, 5, 185, 7_260, 180_000, -3)] == [
        "–",
        "25 ms",
        "5 s",
        "3 min 5 s",
        "2 h 1 min",
        "2 d 2 h",
        "3 s ahead",
    ]
    assert [size(n) for n in (None, 12, 3_400, 5_000_000, 7_300_000_000)] == ["–", "12 B", "3 KB", "5 MB", "7.3 GB"]
    assert as_text([1.5, None]) == "[1.5,null]" and as_text("x" * 400).endswith("… (400 characters)")
