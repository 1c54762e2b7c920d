"""The worker seen from outside: what `GET /health` answers."""

import json
from pathlib import Path
from typing import NoReturn
from urllib.request import urlopen

import pyarrow as pa

from streams.changes import contract_schema
from streams.health import Health
from tests.envelopes import ORDERS, TOPIC
from validation.contract import load
from validation.window import evaluate

RULE = {"type": "expect_column_max_to_be_between", "kwargs": {"column": "amount", "max_value": 1}}


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def test_health_is_json_whatever_a_window_observed(tmp_path: Path) -> None:
    contract = tmp_path / "public.orders.json"
    contract.write_text(json.dumps({"name": "orders", "expectations": [RULE], "meta": {}}))
    rules = load(contract, contract_schema(ORDERS)).table_rules
    observed = [
        outcome.observed
        for amount in (float("inf"), float("-inf"))
        for outcome in evaluate(rules, pa.table({"amount": [amount]}))
    ]
    found = {TOPIC: [{"observed": one} for one in observed]}
    state: dict[str, object] = {"waiting_for": None, "paused": {}, "table_expectations": found}
    health = Health("127.0.0.1", 0, lambda: state, lambda accept: (b"", ""))
    try:
        with urlopen(f"{health.address}/health", timeout=10) as answer:
            told = json.loads(answer.read(), parse_constant=refuse)
    finally:
        health.close()
    assert told["table_expectations"][TOPIC] == [{"observed": "Infinity"}, {"observed": "-Infinity"}]
