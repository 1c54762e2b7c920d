"""What is wrong with a slot, and the watch over a source that does not answer."""

import logging
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from connectors.health import SlotHealth, slot_health
from connectors.slots import SlotWatch, slot_problems
from connectors.source import Source
from millrace.stack.ports import choose_ports
from tests.waiting import waited


def slot(*, active: bool = True, wal_status: str = "reserved") -> SlotHealth:
    return SlotHealth(active, 10, 5, wal_status, None, 1, 2, timedelta(0))


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (slot(), []),
        (slot(wal_status="extended"), []),
        (slot(active=False), ["nothing reads the replication slot of source shop"]),
        (slot(wal_status="unreserved"), ["the replication slot of source shop is unreserved"]),
        (slot(active=False, wal_status="lost"), ["nothing reads", "the replication slot of source shop is lost"]),
    ],
)
def test_a_slot_that_is_not_read_or_about_to_be_lost_is_named(health: SlotHealth, words: list[str]) -> None:
    problems = slot_problems("shop", health)
    assert len(problems) == len(words)
    assert all(problem.startswith(word) for problem, word in zip(problems, words, strict=True))


def test_a_source_that_does_not_answer_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = choose_ports(("postgres",), {})["postgres"]
    source = Source(
        name="shop", url=f"postgresql://u:secret@127.0.0.1:{port}/x", slot="millrace_shop", publication="millrace_shop"
    )

    looks = list[Engine]()

    def looked(engine: Engine, source: Source) -> SlotHealth | None:
        looks.append(engine)
        return slot_health(engine, source)

    def told() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "connectors.slots"]

    monkeypatch.setattr("connectors.slots.slot_health", looked)
    with caplog.at_level(logging.INFO, "connectors.slots"):
        watch = SlotWatch([source], seconds=0.001)
        try:
            waited(lambda: len(looks) >= 5, "some more looks")
        finally:
            watch.close()
    said = watch.slots()["shop"]
    assert isinstance(said, str)
    assert said.startswith("source shop is unavailable") and "secret" not in said
    (record,) = told()
    assert (record.levelname, record.event, record.source) == ("WARNING", "slot_wrong", "shop")  # type: ignore[attr-defined]
