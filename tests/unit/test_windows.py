"""Windows of table-level expectations: what becomes of them when the process that judges them is killed."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from streams import windows
from streams.changes import contract_schema
from streams.pipeline import Flow, take
from streams.windows import Windows
from tests.envelopes import ORDERS, TOPIC, envelope, key, records, row
from validation.contract import load

RULE = {"type": "expect_column_max_to_be_between", "kwargs": {"column": "amount", "max_value": 1}}
DIED = "MILLRACE_TEST_DIED"


def dies_once(rules: Any, rows: Any) -> list[Any]:
    """As the kernel ends a process that takes too much memory."""
    marker = Path(os.environ[DIED])
    if not marker.exists():
        marker.touch()
        os._exit(137)
    return []


def test_windows_are_judged_again_after_their_process_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(DIED, str(tmp_path / "died"))
    monkeypatch.setattr(windows, "evaluate", dies_once)
    monkeypatch.setattr(windows, "LONGEST_SECONDS", 15.0)
    contract = tmp_path / "public.orders.json"
    contract.write_text(json.dumps({"name": "orders", "expectations": [RULE], "meta": {}}))
    flow = Flow(ORDERS, load(contract, contract_schema(ORDERS)), ())
    outcome = take(records((key(1), envelope("c", row(1), lsn=1))), flow, 10_000)
    watched = Windows({TOPIC: flow}, 1, 0.0)
    try:
        patience = time.monotonic() + 240
        while TOPIC not in watched.results and time.monotonic() < patience:
            watched.add(outcome)
            watched.tick()
            time.sleep(0.05)
    finally:
        watched.close()
    assert TOPIC in watched.results
    assert "nothing was heard of them for 15 s" in caplog.text
