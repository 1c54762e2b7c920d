"""One run of the simulation: a shop whose database changes while workers crash, move and wait for stores."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from random import Random
from unittest.mock import patch

from millrace.settings import WorkerYaml
from stores import history
from stores.history import change_properties, feature_properties
from stores.memory import MemoryOnline
from stores.memory_lake import MemoryLake
from stores.rows import FeatureWriter
from stores.writers import ByView
from streams.backfill import AnotherBackfill, Backfill, Window
from streams.breaker import Breaker, BreakerSettings
from streams.changes import changes_schema
from streams.control import Control
from streams.decide import changes_table, features_table
from streams.letters import DeadLetters, one_of_each, read, replay
from streams.memory import MemoryBroker, MemoryFollower, MemoryProducer, MemoryTopics
from streams.patience import UNAVAILABLE
from streams.pipeline import Embedding, Flows, embedding
from streams.tally import Tally
from streams.windows import Windows
from streams.worker import Parts, Worker, WorkerSettings
from tests.simulation import plain
from tests.simulation.database import Database
from tests.simulation.doubles import Group, Lake, Member, MemoryVectors, Model, Online, Producer
from tests.simulation.faults import Process, Weather
from tests.simulation.scheduler import Scheduler, VirtualClock, VirtualExecutor
from tests.simulation.shop import CONTROL, GROUP, LATE, LETTERS, PARTITIONS, flows, lake_schema

STEPS = 60_000
"""Steps after which a run is taken to hang; a long one has some 5,000."""

PART_ROWS = 3
"""Of what a truncate deletes this much is settled at once, so that much can happen in between."""

DEFAULTS = WorkerYaml()
SETTINGS = WorkerSettings(
    poll_records=8,
    poll_seconds=0.05,
    take_bytes=1_500,
    flush_rows=25,
    flush_seconds=0.3,
    stage_rows=60,
    stage_bytes=DEFAULTS.stage_bytes,
    max_record_bytes=DEFAULTS.max_record_bytes,
    stop_seconds=1.0,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is made of; the seed draws it. `overture` are seconds before the first commit, `untold` is the share
    of updates and deletes that come without old values; `note_last` is whether the texts have an event view too."""

    commits: int
    workers: int
    bad_share: float
    truncates: bool
    rebalances: bool
    zombies: bool
    upgrade: bool
    jobs: bool
    outages: bool
    overture: float = 0.0
    untold: float = 0.0
    note_last: bool = True

    @classmethod
    def of(cls, random: Random) -> "Plan":
        def some(share: float) -> bool:
            return random.random() < share

        return cls(
            commits=random.choice((8, 16, 32)),
            workers=random.choice((1, 2, 3)),
            bad_share=random.choice((0.0, 0.0, 0.1)),
            truncates=some(0.2),
            rebalances=some(0.5),
            zombies=some(0.25),
            upgrade=some(0.4),
            jobs=some(0.4),
            outages=some(0.4),
            untold=random.choice((0.0, 0.0, 0.3)),
            note_last=some(0.5),
        )


@dataclass
class Simulation:
    """The world of one seed. `run` returns once all is at rest; `tests.simulation.check` then looks at it."""

    seed: int
    plan: Plan | None = None
    weather: Weather | None = None
    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(partitions=dict(PARTITIONS)))
    lake: MemoryLake = field(default_factory=MemoryLake)
    online: MemoryOnline = field(default_factory=MemoryOnline)
    vectors: MemoryVectors = field(default_factory=MemoryVectors)
    worker: type[Worker] = Worker
    workers: list["RunningWorker"] = field(default_factory=list)
    jobs: list[Process] = field(default_factory=list)
    failed: list[Process] = field(default_factory=list)
    upgraded: bool = False
    upgrading: bool = False
    over: bool = False
    replayed: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.plan = self.plan or Plan.of(self.random)
        self.scheduler = Scheduler(self.random, STEPS)
        self.sky = self.weather or Weather.of(self.random)
        self.group = Group(self.broker)
        self.database = Database(self.random, self.plan.bad_share, self.plan.truncates, self.plan.untold)
        for flow in self.declared(upgraded=True).values():
            topic = flow.table.topic
            properties = change_properties(topic, flow.table.primary_key)
            self.lake.create(changes_table(topic), changes_schema(flow.table), properties)
            for v in flow.views:
                self.lake.create(features_table(v.view.name), lake_schema(v.view), feature_properties(v.view, topic))
        self.flows = self.declared(upgraded=False)
        self.newest = plain.ordered(history.newest) if self.seed % 8 == 0 else plain.newest

    def run(self) -> None:
        """Live through everything. Raises what a process raised, and `Restless` if the lag does not end."""
        self.scheduler.spawn("conductor", self._conduct)
        standing = patch("streams.truncate.standing", plain.ordered_parts(history.standing, PART_ROWS))
        deleted = patch("streams.truncate.deleted_at", plain.ordered_parts(history.deleted_at, PART_ROWS))
        newest = patch("streams.decide.newest", self.newest), patch("streams.backfill.newest", self.newest)
        with standing, deleted, newest[0], newest[1]:
            self.scheduler.run()

    def declared(self, upgraded: bool) -> Flows:
        """What this run's shop declares before or after the upgrade."""
        assert self.plan is not None
        return flows(upgraded, self.plan.note_last)

    def digest(self) -> str:
        """Stands for everything that happened: equal for the same seed, in whatever process."""
        return sha256("\n".join(self.scheduler.trace).encode()).hexdigest()

    def _conduct(self) -> None:
        """The life of the shop: commits among chaos, the upgrade, then calm, until all is at rest."""
        plan = self.plan
        assert plan is not None
        for _ in range(plan.workers):
            self._start_worker()
        self.scheduler.spawn("coordinator", self._coordinate)
        upgrade_at = self.random.randrange(plan.commits) if plan.upgrade else -1
        self.scheduler.sleep(plan.overture)
        for number in range(plan.commits):
            self._commit()
            if number == upgrade_at:
                self._upgrade()
            self._chaos(plan)
            self.scheduler.sleep(self.random.choice((0.0, 0.01, 0.1, 0.4)))
        self.sky.clear()
        self._recover()
        if plan.upgrade:
            self._job("last replay", self._replay)
            self._job("last backfill", self._backfill)
        self._rest()
        self.over = True
        for worker in self.workers:
            worker.stop.set()

    def _commit(self) -> None:
        for partition, key, value, change in self.database.commit():
            offset = self.broker.append(partition, key, value)
            if change is not None:
                change.place = partition, offset
                told = f"{change.op} {change.before} -> {change.after} {change.bad}"
                self.scheduler.say(f"commit {partition}:{offset} {change.table.name} {change.id}@{change.lsn} {told}")

    def _chaos(self, plan: Plan) -> None:
        """Perhaps something happens."""
        act, live = self.random.random(), self.live()
        # Who waits for its stores has not joined yet.
        joined = [worker.member for worker in live if worker.member in self.group.members]
        partition = self.random.choice(sorted(self.group.owners))
        if act < 0.1 and plan.rebalances and joined:
            self.group.move(partition, self.random.choice(joined))
        elif act < 0.2 and plan.zombies and joined:
            self.group.steal(partition, self.random.choice(joined), self._later)
        elif act < 0.25 and live:
            self.random.choice(live).stop.set()
        elif act < 0.4 and plan.jobs:
            if self.random.random() < 0.6:
                for _ in range(self.random.choice((1, 1, 2))):
                    self._start_job("backfill", self._backfill)
            else:
                self._start_job("replay", self._replay)
        elif act < 0.5 and plan.outages:
            store = self.random.choice(("online", "vectors", "lake", "broker", "model"))
            self.sky.away[store] = self.scheduler.now + self.random.choice((0.2, 1.0, 4.0))
            self.scheduler.say(f"outage of {store}")

    def _later(self, act: Callable[[], None]) -> None:
        seconds = self.random.choice((0.05, 0.3, 1.0))

        def body() -> None:
            self.scheduler.sleep(seconds)
            act()

        self.scheduler.spawn("notice", body)

    def live(self) -> list["RunningWorker"]:
        """The workers that neither died nor were told to stop."""
        return [w for w in self.workers if not (w.process.dead or w.ended or w.stop.is_set())]

    def _coordinate(self) -> None:
        """Orphaned partitions go to live members; who died is replaced."""
        assert self.plan is not None
        while not self.over:
            self.group.settle(self.random.choice)
            missing = len(self.live()) < self.plan.workers
            if missing and not (self.upgrading or self.over) and self.random.random() < 0.5:
                self._start_worker()
            self.scheduler.sleep(0.2)

    def _start_worker(self) -> None:
        worker = RunningWorker(self, f"worker-{len(self.workers) + 1}")
        self.workers.append(worker)
        worker.start()

    def _upgrade(self) -> None:
        """A new version is rolled out: all workers stop, then others start with what is declared now."""
        self.scheduler.say("upgrade")
        self.upgrading = True
        for worker in self.workers:
            worker.stop.set()
        self.scheduler.wait(lambda: all(worker.ended or worker.process.dead for worker in self.workers), 60.0)
        self.flows = self.declared(upgraded=True)
        self.upgraded, self.upgrading = True, False
        for _ in range(self.plan.workers if self.plan else 1):
            self._start_worker()

    def _recover(self) -> None:
        """After the storm: wait for the jobs under way, and run a backfill that came to no end again, as whoever runs
        one has to: it may have died between a row that it chose and the word that this one is gone."""
        self.scheduler.say("calm")
        self.scheduler.wait(lambda: all(job.dead or job.actors[0].done for job in self.jobs), 60.0)
        if any(job.name.startswith("backfill") and (job.dead or job in self.failed) for job in self.jobs):
            self._job("repeated backfill", partial(self._fill, views=[]))

    def _rest(self) -> None:
        """Until the lag is zero; what the workers are at then ends within a flush interval."""
        self.scheduler.wait(self._drained, 120.0)
        assert self._drained(), f"the lag does not go back to zero: {self._lag()}"

    def _lag(self) -> dict[str, int]:
        return {str(p): len(self.broker.log[p]) - self.broker.offsets.get((GROUP, p), 0) for p in self.group.owners}

    def _drained(self) -> bool:
        return not any(self._lag().values())

    def _start_job(self, name: str, body: Callable[[Process], None]) -> Process:
        process = Process(self.scheduler, self.sky, f"{name}-{len(self.jobs) + 1}")
        self.jobs.append(process)

        def attempt() -> None:
            try:
                body(process)
            except (*UNAVAILABLE, AnotherBackfill) as error:
                self.failed.append(process)
                self.scheduler.say(f"{name} ended: {error}")

        process.actors.append(self.scheduler.spawn(process.name, attempt))
        return process

    def _job(self, name: str, body: Callable[[Process], None]) -> None:
        """Run a job to its end."""
        process = self._start_job(name, body)
        self.scheduler.wait(lambda: process.actors[0].done, 60.0)

    def _backfill(self, process: Process) -> None:
        self._fill(process, [LATE.view.name] if self.upgraded and self.random.random() < 0.7 else [])

    def _fill(self, process: Process, views: list[str]) -> None:
        lake = Lake(process, self.lake)
        backfill = Backfill(self.flows, lake, self.writer(process), self.embedding(process))  # type: ignore[arg-type]  # as much of one as it uses
        backfill.run(views, Window(), lambda view, share: None)

    def _replay(self, process: Process) -> None:
        process.step("broker", "read the letters")
        letters = list(one_of_each(lambda: read(MemoryTopics(self.broker), LETTERS), lambda letter: True))
        if letters:
            process.step("broker", f"replay {len(letters)} letters")
            self.replayed += replay(Producer(process, MemoryProducer(self.broker)), letters)

    def writer(self, process: Process) -> FeatureWriter:
        """The online and the vector store as a process sees them."""
        return ByView(Online(process, "online", self.online), Online(process, "vectors", self.vectors))

    def embedding(self, process: Process) -> Embedding:
        """The embedding step of a process."""
        return embedding(Model(process), Online(process, "vectors", self.vectors), lambda texts: None)


class RunningWorker:
    """A worker and the process around it."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.simulation = simulation
        self.stop = threading.Event()
        self.ended = False
        scheduler = simulation.scheduler
        self.process = process = Process(scheduler, simulation.sky, name)
        self.member = Member(process, simulation.broker, simulation.group)
        random = simulation.random
        self.worker = simulation.worker(
            simulation.flows,
            Parts(
                consumer=self.member,
                letters=DeadLetters(Producer(process, MemoryProducer(simulation.broker)), LETTERS),
                online=simulation.writer(process),
                lake=Lake(process, simulation.lake),  # type: ignore[arg-type]  # as much of one as it uses
                embedding=simulation.embedding(process),
                breaker=Breaker(BreakerSettings(share=DEFAULTS.reject_share, least=1_000_000)),
                windows=Windows(simulation.flows, 1_000, 60.0),
                tally=Tally(),
                control=Control(MemoryFollower(simulation.broker, CONTROL)),
                clock=VirtualClock(scheduler, random.random() * 1000, random.choice((0.8, 1.0, 1.25))),
                beside=VirtualExecutor(scheduler, name, process.actors.append),
                vectors=VirtualExecutor(scheduler, name, process.actors.append),
            ),
            SETTINGS,
        )

    def start(self) -> None:
        """Begin to run."""
        self.process.actors.append(self.simulation.scheduler.spawn(self.process.name, self._run))

    def _run(self) -> None:
        self.simulation.scheduler.say("started")
        self.worker.run(self.stop)
        self.ended = True
        self.simulation.scheduler.say("ended")
