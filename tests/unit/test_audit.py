"""The audit log: one line a request, written beside the requests, without what was asked of whom."""

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.logs import Logfmt
from serving.access import Caller, Forbidden, OpenAccess
from serving.audit import LoggedAudit, Request
from serving.http import GetOnlineFeatures, Seen
from serving.request import FeaturesRequest, RequestLimits
from serving.snapshot import Asked


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [Logfmt().format(record).split(" ", 1)[1] for record in caplog.records]


def test_a_line_says_who_what_and_how_many(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "millrace.audit"):
        audit = LoggedAudit()
        audit.note(Request("model", "delays", (), 10, 200))
        audit.note(Request("", None, ("planes", "weather", "planes"), 3, 403))
        audit.note(Request("model", "delays", (), 1, "RESOURCE_EXHAUSTED", protocol="grpc"))
        audit.close()
    assert lines(caplog) == [
        "level=INFO event=request msg=answered key=model service=delays entities=10 status=200 protocol=http",
        "level=INFO event=request msg=refused key=- views=planes,weather entities=3 status=403 protocol=http",
        "level=INFO event=request msg=refused key=model service=delays entities=1 status=RESOURCE_EXHAUSTED "
        "protocol=grpc",
    ]


def test_a_slow_log_delays_nobody_and_what_is_lost_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    writing, go_on = threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            writing.set()
            go_on.wait(60)

    logger, slow = logging.getLogger("millrace.audit"), Slow()
    logger.addHandler(slow)
    try:
        with caplog.at_level(logging.INFO, "millrace.audit"):
            audit = LoggedAudit(waiting=5)
            audit.note(Request("model", "delays", (), 1, 200))
            assert writing.wait(60)
            for _ in range(8):
                audit.note(Request("model", "delays", (), 1, 200))
            go_on.set()
            audit.close()
    finally:
        logger.removeHandler(slow)
    found = lines(caplog)
    assert sum("event=request" in line for line in found) == 6
    assert [line for line in found if "audit_lost" in line and "lines=3" in line]


def test_a_name_of_any_length_is_cut() -> None:
    """What a request names is known to nobody yet, and lines that wait are kept in memory."""

    class Closed(OpenAccess):
        def admit_id(self, key_id: str, project: str, service: str | None, entities: int) -> Caller:
            raise Forbidden("not for this", "model")

    registry: Any = SimpleNamespace(current=SimpleNamespace(config=SimpleNamespace(project="nyc")))
    features: Any = SimpleNamespace()
    asked = FeaturesRequest(Asked((), "x" * (1 << 20), False), {}, 1, False)
    seen = Seen()
    with pytest.raises(Forbidden):
        GetOnlineFeatures(registry, features, Closed(), RequestLimits()).admitted("id", asked, seen)
    assert seen.service == "x" * 100
