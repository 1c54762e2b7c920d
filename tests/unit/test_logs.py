"""Log lines: one line an event, whatever is in it, and every event documented."""

import json
import logging
import re
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from millrace.logs import Logfmt

ROOT = Path(__file__).parents[2]


def line(message: str, *arguments: object, **extra: object) -> str:
    record = logging.getLogger("x").makeRecord("x", logging.INFO, "f", 1, message, arguments, None, extra=extra)
    return Logfmt().format(record)


def parsed(text: str) -> dict[str, str]:
    pairs = re.findall(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s"]+)(?: |$)', text)
    return {name: json.loads(value) if value.startswith('"') else value for name, value in pairs}


def test_a_line_has_time_level_event_sentence_and_fields() -> None:
    text = line("%s goes on", "a.b.c", event="resumed", table="a.b.c", partitions=["a[0]", "b[1]"])
    assert re.fullmatch(
        r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=INFO event=resumed "
        r'msg="a\.b\.c goes on" table=a\.b\.c partitions=a\[0\],b\[1\]',
        text,
    )


@given(st.text(min_size=1), st.text())
def test_nothing_in_a_message_or_a_field_breaks_the_line(message: str, table: str) -> None:
    text = line("%s", message, event="x", table=table)
    assert "\n" not in text and "\r" not in text
    found = parsed(text)
    assert (found["msg"], found["table"]) == (message, table)


def test_a_trace_stays_on_its_line() -> None:
    try:
        raise ValueError("odd\nnumber")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    text = Logfmt().format(record)
    assert "\n" not in text and "ValueError: odd\nnumber" in parsed(text)["trace"]


def test_every_event_is_documented_and_every_documented_one_is_there() -> None:
    sections = (ROOT / "docs" / "operations.md").read_text().split("### Log lines of a ")[1:]
    section = "\n".join(section.split("\n### ")[0] for section in sections)
    rows = [row.split("|")[2] for row in section.splitlines() if row.startswith(("| INFO", "| WARNING", "| ERROR"))]
    documented = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    packages = ("streams", "connectors", "stores", "serving", "validation", "millrace")
    code = "".join(path.read_text() for package in packages for path in (ROOT / package).rglob("*.py"))
    assert set(re.findall(r'"event": "([a-z_]+)"', code)) == documented
