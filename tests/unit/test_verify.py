"""What `millrace verify` tells once everything is compared."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from feast import FeatureStore

import millrace.verify
from connectors.table import Column
from millrace.cli import millrace as command_line
from millrace.repo import Repo
from millrace.verify import _keys
from stores.memory import MemoryOnline
from stores.view import Feature, View
from stores.writers import ByView
from streams.memory import MemoryBroker, MemoryTopics
from streams.messages import Partition
from streams.views import StreamView
from tests.envelopes import ORDERS, TOPIC
from tests.unit.command_repo import command_repo

Verify = Callable[..., Result]


@pytest.fixture
def broker() -> MemoryBroker:
    """Five records, of which the first two expired before any was committed."""
    broker = MemoryBroker()
    for _ in range(5):
        broker.append(Partition(TOPIC, 0), b"key", b"value")
    broker.expired[Partition(TOPIC, 0)] = 2
    return broker


@pytest.fixture
def verify(tmp_path: Path, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> Verify:
    class Flow:
        """A table of which no view is compared."""

        views = ()

    command_repo(tmp_path)
    FeatureStore(repo_path=str(tmp_path)).apply([])
    monkeypatch.setattr(Repo, "declared", lambda repo: [])
    monkeypatch.setattr(millrace.verify, "flows", lambda repo: {TOPIC: Flow})
    monkeypatch.setattr(millrace.verify, "lake", lambda repo: None)
    monkeypatch.setattr(millrace.verify, "stores", lambda repo: ByView(MemoryOnline(), None))
    monkeypatch.setattr(millrace.verify, "topics", lambda repo: MemoryTopics(broker))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(command_line, ["verify", "--repo", str(tmp_path), *arguments])

    return run


def test_what_is_in_flight_is_what_the_topics_still_hold(verify: Verify) -> None:
    result = verify("--json", "--sample", "1")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["in_flight"]["records"], told["problems"]) == (0, 3, [])
    assert "in flight: 3 records not committed" in verify("--sample", "1").stdout


def test_the_result_is_told_though_the_broker_is_away(verify: Verify, broker: MemoryBroker) -> None:
    """All was compared by then, which may have taken hours."""
    broker.available = False
    result = verify("--json")
    told = json.loads(result.stdout.splitlines()[-1])
    assert (result.exit_code, told["entities"], told["mismatches"]) == (1, 0, 0)
    assert told["in_flight"] == {"records": None, "seconds": 1.0}
    assert told["problems"] == ["what is in flight is not known: the broker in memory is away"]
    assert f"error: {told['problems'][0]}\n" in result.stderr
    assert "in flight: not known" in verify().stdout


def test_a_row_whose_join_key_does_not_fit_is_of_no_entity() -> None:
    """It is a letter: nothing of it is anywhere. A numeric without a precision is text."""
    table = replace(ORDERS, columns=(*ORDERS.columns, Column("n", "numeric", pa.string(), "decimal", nullable=True)))
    view = View("p", "by_n", "by_n", "event", (Feature("n", 4, pa.int64()),), (Feature("amount", 5, pa.float64()),))
    rows = pa.table({"n": ["1.5", "NaN", None, "7"]})
    assert _keys(StreamView(view, table, "placed_at"), rows).to_pydict() == {"n": [None, None, None, 7]}
