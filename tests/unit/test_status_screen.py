"""The screen of `millrace status`: everything in it, whatever is there."""

from pathlib import Path
from typing import Any

from millrace.status_screen import screen
from tests.envelopes import TOPIC, envelope, key, row
from tests.worker_platform import Platform


def status(platform: Platform, **changed: Any) -> dict[str, Any]:
    """What the command hands to the screen, with the state of a worker that ran."""
    assert platform.worker is not None
    return {
        "services": [{"name": "kafka", "state": "running", "port": 9092, "uptime": 3_600.0}],
        "connectors": {"shop": "RUNNING", "depot": "absent"},
        "slots": {
            "shop": {
                "active": True,
                "behind_bytes": 1_234_567,
                "retained_bytes": 9_000_000_000,
                "safe_wal_size": None,
                "wal_status": "reserved",
            }
        },
        "stores": {"online": "answers", "lake": "answers"},
        "lag": {TOPIC: 1_234},
        "workers": {"4711": {**platform.worker.state(), **changed}},
        "problems": [],
    }


def test_all_of_it_is_on_the_screen(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 5.0), lsn=10)), (key(2), envelope("c", row(2, amount=-1.0), lsn=11))
    )
    platform.run()
    lines = screen(status(platform)).splitlines()
    assert len(lines) < 30

    def columns(name: str) -> list[str]:
        (line,) = [line for line in lines if line.startswith(name)]
        return line.split()

    assert columns("kafka") == ["kafka", "running", "9092", "3,600", "s"]
    assert columns("shop ") == ["shop", "RUNNING", "active,", "reserved", "1", "MB", "9", "GB", "no", "limit"]
    assert columns("depot")[:2] == ["depot", "absent"]
    assert columns(TOPIC)[:5] == [TOPIC, "1,234", "1", "1", "0"]
    assert columns(TOPIC)[-1] == "1"
    assert columns("4711")[:3] == ["4711", "2", "0"]
    assert any("expect_column_values_to_be_between on amount" in line and "contract" in line for line in lines)
    assert lines[-1] == "all is well"


def test_what_is_wrong_stands_at_the_end_and_at_its_table(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    platform.start()
    value = status(platform, paused={TOPIC: "it is paused"}, waiting_for="Redis is unavailable")
    lines = screen({**value, "problems": ["it is paused", "worker 4711 waits"]}).splitlines()
    assert lines[-2:] == ["problem: it is paused", "problem: worker 4711 waits"]
    assert next(line for line in lines if line.startswith(TOPIC)).endswith("paused")
    assert next(line for line in lines if line.startswith("4711")).endswith("Redis is unavailable")


def test_a_stack_that_is_stopped_has_services_only() -> None:
    services = [{"name": "kafka", "state": "stopped", "port": None, "uptime": None}]
    lines = screen({"services": services, "problems": ["the local stack is stopped: millrace up"]}).splitlines()
    assert lines[-1] == "problem: the local stack is stopped: millrace up"


def test_names_of_the_source_are_shown_as_they_are(tmp_path: Path) -> None:
    """A column, a table or a source may be named like a style, the end of one, or an emoji."""
    platform = Platform(tmp_path)
    platform.start()
    reasons = [f"expect_odd on {name}" for name in ("speed [/h]", "weight [kg]", "[red]", "a:key:b")]
    letters = {"shop.public.[b]": [{"stage": "contract", "reason": reason, "count": 1} for reason in reasons]}
    value = {
        **status(platform, letters=letters),
        "services": [{"name": "kafka [s]", "state": "running [x]", "port": None, "uptime": None}],
        "stores": {"online": "answers [/y]"},
        "connectors": {"[b]": "RUNNING [/z]"},
        "lag": {"shop.public.[/b]": 0},
        "problems": ["column speed [/h] of [b]"],
    }
    shown = screen(value)
    for text in (*reasons, "shop.public.[b]", "kafka [s]", "running [x]", "[/y]", "[b]  ", "RUNNING [/z]"):
        assert text in shown
    assert any(line.startswith("shop.public.[/b] ") for line in shown.splitlines())
    assert shown.endswith("problem: column speed [/h] of [b]")


def test_a_worker_that_has_no_estimate_leaves_those_of_the_others(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    platform.start()
    value = status(platform)
    (worker,) = value["workers"].values()
    empty = {"count": 0, "seconds": 0.0, "p50": None, "p99": None}
    known = {"count": 1, "seconds": 0.002, "p50": 0.002, "p99": 0.003}
    lake = {**worker["lake"], "flush": empty}
    waits = {**worker, "freshness": {TOPIC: empty}, "stages": {"decode": empty}, "lake": lake}
    workers = {"1": waits, "2": {**worker, "freshness": {TOPIC: known}}}
    shown = screen({**value, "workers": workers})
    assert next(line for line in shown.splitlines() if line.startswith(TOPIC)).split()[5:9] == ["2", "ms", "3", "ms"]
    assert screen({**value, "workers": {"1": waits}})
