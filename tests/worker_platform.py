"""A worker over the broker, the online store and the lake in memory, which fail on demand."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from millrace.settings import WorkerYaml
from stores.history import change_properties, feature_properties
from stores.memory import MemoryOnline
from stores.memory_lake import MemoryLake
from stores.rows import WriteResult, rows_schema
from stores.view import Feature, Kind, View
from streams.breaker import Breaker, BreakerSettings
from streams.changes import changes_schema, contract_schema
from streams.clock import Clock, SystemClock
from streams.control import Control
from streams.daemons import Daemons
from streams.decide import changes_table, features_table
from streams.letters import DeadLetters, read
from streams.memory import MemoryBroker, MemoryConsumer, MemoryFollower, MemoryProducer, MemoryTopics
from streams.messages import Partition
from streams.pipeline import Embedding, Flow
from streams.tally import Tally
from streams.views import StreamView
from streams.windows import Windows
from streams.worker import Parts, Worker, WorkerSettings
from tests.envelopes import ORDERS, TOPIC
from validation.contract import load

DEFAULTS = WorkerYaml()
QUICK = WorkerSettings(
    poll_records=DEFAULTS.poll_records,
    flush_rows=DEFAULTS.flush_rows,
    flush_seconds=0.01,
    stage_rows=DEFAULTS.stage_rows,
    stage_bytes=DEFAULTS.stage_bytes,
    max_record_bytes=DEFAULTS.max_record_bytes,
    poll_seconds=0.001,
    stop_seconds=2.0,
)
GROUP, LETTERS, CONTROL = "g", "letters", "control"
P0, P1 = Partition(TOPIC, 0), Partition(TOPIC, 1)
SUITE = {
    "name": "orders",
    "expectations": [
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "amount", "min_value": 0},
            "severity": "critical",
            "meta": {},
        }
    ],
    "meta": {},
}


def view(kind: Kind, name: str, key_name: str, value_type: int, arrow_type: pa.DataType) -> View:
    return View(
        "p", name, name, kind, (Feature(key_name, value_type, arrow_type),), (Feature("amount", 5, pa.float64()),)
    )


ORDER = view("state", "order_now", "id", 4, pa.int64())
CUSTOMER = view("event", "customer_last", "customer", 2, pa.string())


class Killed(BaseException):
    """What a kill -9 looks like from inside: nothing after it runs."""


class UnreliableOnline(MemoryOnline):
    """Fails on demand, before or after the write took effect."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[BaseException] = []
        self.away: list[BaseException] = []

    def ping(self) -> None:
        if self.away:
            raise self.away.pop(0)

    def write(self, batches: Any) -> WriteResult:
        if self.faults:
            raise self.faults.pop(0)
        return super().write(batches)


class UnreliableLake(MemoryLake):
    """Fails on demand before an append, or after it."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, list[BaseException]] = {}
        self.after: dict[str, list[BaseException]] = {}

    def append(self, name: str, rows: pa.Table, offsets: Any) -> Any:
        if self.before.get(name):
            raise self.before[name].pop(0)
        result = super().append(name, rows, offsets)
        if self.after.get(name):
            raise self.after[name].pop(0)
        return result


@dataclass
class Platform:
    """Everything around a worker; it outlives the workers."""

    folder: Path
    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(partitions={TOPIC: 2, LETTERS: 1}))
    online: UnreliableOnline = field(default_factory=UnreliableOnline)
    lake: UnreliableLake = field(default_factory=UnreliableLake)
    consumer: MemoryConsumer | None = None
    worker: Worker | None = None
    clock: Clock = field(default_factory=SystemClock)
    beside: dict[str, Flow] = field(default_factory=dict)
    embedding: Embedding = lambda outcome, made: outcome

    def __post_init__(self) -> None:
        contract = self.folder / "public.orders.json"
        contract.write_text(json.dumps(SUITE))
        views = (StreamView(ORDER, ORDERS), StreamView(CUSTOMER, ORDERS, "placed_at"))
        self.flow = Flow(ORDERS, load(contract, contract_schema(ORDERS)), views)
        self.lake.create(changes_table(TOPIC), changes_schema(ORDERS), change_properties(TOPIC, ("id",)))
        for v in (ORDER, CUSTOMER):
            self.lake.create(features_table(v.name), rows_schema(v), feature_properties(v, TOPIC))

    def start(self, **settings: Any) -> Worker:
        self.consumer = MemoryConsumer(self.broker, GROUP)
        flows = {TOPIC: self.flow, **self.beside}
        self.worker = Worker(
            flows,
            Parts(
                consumer=self.consumer,
                letters=DeadLetters(MemoryProducer(self.broker), LETTERS),
                online=self.online,
                lake=self.lake,
                embedding=self.embedding,
                breaker=Breaker(BreakerSettings(share=DEFAULTS.reject_share, least=50)),
                windows=Windows(flows, 1_000, 60.0),
                tally=Tally(),
                control=Control(MemoryFollower(self.broker, CONTROL)),
                clock=self.clock,
                beside=ThreadPoolExecutor(max_workers=4),
                vectors=Daemons(),
            ),
            replace(QUICK, **settings),
        )
        return self.worker

    def joined(self, **settings: Any) -> tuple[Worker, MemoryConsumer]:
        """A new worker that has joined the group and does not run, and its consumer."""
        worker = self.start(**settings)
        assert self.consumer is not None
        worker._members.join(worker.topics, worker._revoked, worker._lost)
        return worker, self.consumer

    def run(self, until: Any = None, **settings: Any) -> Worker:
        """Run a new worker until everything is committed, or `until` holds."""
        worker = self.start(**settings)
        stop = threading.Event()
        failure: list[BaseException] = []

        def body() -> None:
            try:
                worker.run(stop)
            except BaseException as error:  # noqa: BLE001  # handed to the test's own thread
                failure.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        finished = until or self.drained
        for _ in range(2_000):
            if not thread.is_alive() or finished():
                break
            threading.Event().wait(0.002)
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
        if failure:
            raise failure[0]
        return worker

    def drained(self) -> bool:
        return all(self.broker.offsets.get((GROUP, p), 0) == len(self.broker.log[p]) for p in (P0, P1))

    def produce(self, *values: tuple[bytes | None, bytes | None], to: Partition = P0) -> None:
        for k, v in values:
            self.broker.append(to, k, v)

    def order(self, id_: int) -> Any:
        return self._read(ORDER, pa.table({"id": [id_]}))

    def customer(self, name: str) -> Any:
        return self._read(CUSTOMER, pa.table({"customer": [name]}))

    def take_the_rule_back(self) -> None:
        contract = self.folder / "public.orders.json"
        contract.write_text(json.dumps({**SUITE, "expectations": []}))
        self.flow = Flow(ORDERS, load(contract, contract_schema(ORDERS)), self.flow.views)

    def _read(self, v: View, keys: pa.Table) -> Any:
        (table,) = self.online.read([v], keys)
        return table["amount"][0].as_py() if table["_present"][0].as_py() else None

    def changes(self) -> list[tuple[int, str]]:
        table = self.lake.scan(changes_table(TOPIC)).read_all()
        return sorted(zip(table["_lsn"].to_pylist(), table["_op"].to_pylist(), strict=True))

    def letters(self) -> list[Any]:
        return list(read(MemoryTopics(self.broker), LETTERS))
