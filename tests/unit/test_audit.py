"""The audit log: one line a request, written beside the requests, without what was asked of whom."""

import asyncio
import logging
import re
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.logs import line
from serving.access import Caller, Forbidden, OpenAccess
from serving.aside import Aside
from serving.audit import LoggedAudit, Request
from serving.http import GetOnlineFeatures, Seen
from serving.request import FeaturesRequest, RequestLimits
from serving.snapshot import Asked


def test_a_line_says_who_what_and_how_many() -> None:
    written: list[str] = []
    audit = LoggedAudit(line, written.append)
    audit.note(Request("model", "delays", (), 10, 200))
    audit.note(Request("", None, ("planes", "weather", "planes"), 3, 403))
    audit.note(Request("model", "delays", (), 1, "RESOURCE_EXHAUSTED", protocol="grpc"))
    audit.close()
    text = "".join(written)
    assert text.endswith("\n")
    assert [re.sub(r"^ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", "", one) for one in text.splitlines()] == [
        "level=INFO event=request msg=answered key=model service=delays entities=10 status=200 protocol=http",
        "level=INFO event=request msg=refused key=- views=planes,weather entities=3 status=403 protocol=http",
        "level=INFO event=request msg=refused key=model service=delays entities=1 status=RESOURCE_EXHAUSTED "
        "protocol=grpc",
    ]


@settings(max_examples=10)
@given(st.text(min_size=1), st.lists(st.text(), max_size=3))
def test_no_name_breaks_a_line(name: str, views: list[str]) -> None:
    written: list[str] = []
    audit = LoggedAudit(line, written.append)
    audit.note(Request(name, name, (), 1, 404))
    audit.note(Request(name, None, views, 1, 404))
    audit.close()
    text = "".join(written)
    assert text.count("\n") == 2 and text.endswith("\n") and "\r" not in text


def test_processes_that_share_a_pipe_do_not_break_into_each_others_lines() -> None:
    written: list[str] = []
    audit = LoggedAudit(line, written.append)
    for count in range(500):
        audit.note(Request("model", "é" * 50, (), count, 200))
    audit.note(Request("model", "x" * 5_000, (), 500, 200))
    audit.close()
    assert 10 < len(written) < 100
    assert all(part.endswith("\n") and (len(part.encode()) <= 4_096 or part.count("\n") == 1) for part in written)
    text = "".join(written).splitlines()
    assert [int(one.partition("entities=")[2].split()[0]) for one in text] == list(range(501))


def test_a_slow_log_delays_nobody_and_what_is_lost_is_counted() -> None:
    writing, go_on = threading.Event(), threading.Event()
    written: list[str] = []

    def write(text: str) -> None:
        writing.set()
        go_on.wait(60)
        written.append(text)

    audit = LoggedAudit(line, write, waiting=5)
    audit.note(Request("model", "delays", (), 1, 200))
    assert writing.wait(60)
    for _ in range(8):
        audit.note(Request("model", "delays", (), 1, 200))
    go_on.set()
    audit.close()
    found = "".join(written).splitlines()
    assert sum("event=request" in one for one in found) == 6
    assert [one for one in found if "level=WARNING event=audit_lost" in one and "lines=3" in one]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("I/O operation on closed file")])
def test_what_cannot_be_written_is_counted_and_told_once_it_can(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    refused, mended = threading.Semaphore(0), threading.Event()
    written: list[str] = []

    def write(text: str) -> None:
        if not mended.is_set():
            refused.release()
            raise error
        written.append(text)

    audit = LoggedAudit(line, write)
    with caplog.at_level(logging.INFO):
        for count in range(2):
            for _ in range(3):
                audit.note(Request("model", "gone", (), count, 200))
            for _ in range(3):
                assert refused.acquire(timeout=60)
        mended.set()
        audit.note(Request("model", "kept", (), 1, 200))
        audit.close()
    found = "".join(written).splitlines()
    assert [one for one in found if "event=request" in one] == [one for one in found if "service=kept" in one]
    assert [one for one in found if "level=WARNING event=audit_lost" in one and "lines=6" in one]
    assert len(found) == 2
    assert [(record.levelname, record.event) for record in caplog.records] == [("ERROR", "audit_unwritable")]  # type: ignore[attr-defined]
    assert str(error) in caplog.messages[0]


def test_a_name_of_any_length_is_cut() -> None:
    """What a request names is known to nobody yet, and lines that wait are kept in memory."""

    class Closed(OpenAccess):
        def reach(self, key_id: str, project: str, service: str | None) -> Caller:
            raise Forbidden("not for this", "model")

    registry: Any = SimpleNamespace(current=SimpleNamespace(config=SimpleNamespace(project="nyc")))
    features: Any = SimpleNamespace()
    asked = FeaturesRequest(Asked((), "x" * (1 << 20), False), {}, 1, False)
    seen = Seen()
    answering = GetOnlineFeatures(registry, features, Closed(), RequestLimits(), Aside("versions", 1, 1))
    with pytest.raises(Forbidden):
        asyncio.run(answering.admitted("id", asked, seen))
    assert seen.service == "x" * 100
