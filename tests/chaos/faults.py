"""The faults: what can strike, in which order for a seed, and how each is done to the real stack."""

import json
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Message, Producer, TopicPartition

from tests.chaos.ground import GROUP, PARTITIONS, SOURCES, TOPICS, Ground
from tests.chaos.worker import SESSION_SECONDS, STEPS

Strike = Callable[[Ground, random.Random], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: it strikes `after` transactions of its own window. `settles`: the next waits for its recovery.

    `seed` makes the choices within it: which worker, how long, which records.
    """

    number: int
    kind: str
    after: int
    settles: bool
    seed: str

    def __str__(self) -> str:
        return f"{self.number:>3} {self.kind}"


def schedule(seed: int, count: int, window: int) -> list[Fault]:
    """The faults of a run: each kind once in a random order, then again and again by weight."""
    choose = random.Random(f"faults {seed}")
    kinds = list(KINDS)
    choose.shuffle(kinds)
    # Each kind of trouble first; of the many steps to die at a few, the others follow.
    steps = [kind for kind in kinds if kind.startswith("die at")]
    kinds = [kind for kind in kinds if not kind.startswith("die at")] + steps
    short = [*kinds[: len(kinds) - len(steps)], *steps[:4]]
    choose.shuffle(short)
    kinds = [*short, *steps[4:]]
    kinds += choose.choices(list(KINDS), weights=[weight for _, weight in KINDS.values()], k=max(0, count - len(kinds)))
    return [
        Fault(i + 1, kind, choose.randrange(window), choose.random() < 0.7, f"{seed} {i} {kind}")
        for i, kind in enumerate(kinds[:count])
    ]


def strike(fault: Fault, ground: Ground) -> None:
    """Let it strike, and end: what was killed is started again, what was taken away is back."""
    KINDS[fault.kind][0](ground, random.Random(fault.seed))


def kill_worker(ground: Ground, choose: random.Random) -> None:
    worker = choose.choice(ground.workers.names)
    ground.workers.kill(worker)
    time.sleep(choose.uniform(0, 1))
    ground.workers.start(worker)


def die_at(step: str) -> Strike:
    """A worker kills itself at a step; where none comes to it in time it is killed where it is."""

    def die(ground: Ground, choose: random.Random) -> None:
        worker, times = choose.choice(ground.workers.names), choose.randint(1, 3)
        ground.workers.order_death(worker, step, times)
        if ground.workers.wait(lambda: not ground.workers.alive(worker), 5):
            ground.workers.died_at_steps += 1
        else:
            ground.workers.kill(worker)
        ground.workers.start(worker)

    return die


def freeze_worker(ground: Ground, choose: random.Random) -> None:
    """Longer than its session lasts: others have its partitions when it wakes with a batch in its hands."""
    worker = choose.choice(ground.workers.names)
    ground.workers.freeze(worker)
    time.sleep(SESSION_SECONDS + choose.uniform(1, 2))
    ground.workers.wake(worker)


def storm(ground: Ground, choose: random.Random) -> None:
    """Workers come, leave and die in quick succession."""
    regular = list(ground.workers.names)
    for _ in range(choose.randint(4, 7)):
        worker = choose.choice(regular)
        choose.choice((ground.workers.terminate, ground.workers.kill))(worker)
        time.sleep(choose.uniform(0, 0.5))
        ground.workers.start(worker)
        time.sleep(choose.uniform(0, 1.5))


def kill_service(name: str) -> Strike:
    def kill(ground: Ground, choose: random.Random) -> None:
        ground.kill_service(name)
        time.sleep(choose.uniform(0, 3))
        ground.revive()

    return kill


def empty_redis(ground: Ground, choose: random.Random) -> None:
    """Redis comes back with nothing and is rebuilt from the lake, beside the live workers."""
    ground.kill_service("redis")
    shutil.rmtree(ground.folder / "stack" / "redis")
    time.sleep(choose.uniform(0, 1))
    ground.revive()
    ground.workers.command("backfill")


def lake_gone(ground: Ground, choose: random.Random) -> None:
    """Its volume is not mounted for a while."""
    away = ground.volume / "away"
    ground.lake.rename(away)
    ground.volume.chmod(0o555)
    time.sleep(choose.uniform(0.5, 3))
    ground.volume.chmod(0o755)
    away.rename(ground.lake)


def lake_read_only(ground: Ground, choose: random.Random) -> None:
    """No process may write to its folders for a while."""
    _modes(ground.lake, 0o555)
    time.sleep(choose.uniform(0.5, 3))
    _modes(ground.lake, 0o755)


def _modes(folder: Path, mode: int) -> None:
    for path, _, _ in os.walk(folder):
        Path(path).chmod(mode)


def lake_full(ground: Ground, choose: random.Random) -> None:
    """Every write of a worker beyond so many bytes of a file fails for a while (EFBIG, see setrlimit(2)): what
    a full disk does, without a disk to fill."""
    room = choose.choice((0, 200, 4_096))
    pids = [ground.workers.pid(worker) for worker in ground.workers.names if ground.workers.alive(worker)]
    _room(pids, room)
    time.sleep(choose.uniform(0.5, 3))
    _room(pids, resource.RLIM_INFINITY)


def _room(pids: list[int], size: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def rewind(ground: Ground, choose: random.Random) -> None:
    """The group's offsets are set back by hand while no worker runs."""
    names = list(ground.workers.names)
    for worker in names:
        ground.workers.terminate(worker)
    back = [
        TopicPartition(topic, number, int(offset * choose.random()))
        for (topic, number), offset in sorted(ground.committed().items())
    ]
    request = ConsumerGroupTopicPartitions(GROUP, back)
    admin = ground.admin
    admin.alter_consumer_group_offsets([request])[GROUP].result(30)
    for worker in names:
        ground.workers.start(worker)


def deliver_again(ground: Ground, choose: random.Random) -> None:
    """The end of a partition comes once more, as from a source connector that died before it stored its offset."""
    records = _tail(ground, choose)
    _produce(ground, records)


def deliver_out_of_order(ground: Ground, choose: random.Random) -> None:
    """Old records of a partition come once more, shuffled."""
    records = _tail(ground, choose)
    choose.shuffle(records)
    _produce(ground, records[: len(records) // 2 + 1])


def _tail(ground: Ground, choose: random.Random) -> list[Message]:
    table = choose.choice(list(TOPICS))
    partition, share = choose.randrange(PARTITIONS[table]), choose.random()
    end = ground.ends()[TOPICS[table], partition]
    start = max(0, end - int(1 + 200 * share))
    if start == end:
        return []
    consumer = Consumer({"bootstrap.servers": ground.endpoints.kafka, "group.id": "chaos-copies"})
    consumer.assign([TopicPartition(TOPICS[table], partition, start)])
    records: list[Message] = []
    while not records or records[-1].offset() < end - 1:
        records += [m for m in consumer.consume(500, 1.0) if m.error() is None and m.offset() < end]
    consumer.close()
    return [record for record in records if not _of_a_snapshot(record)]


def _of_a_snapshot(record: Message) -> bool:
    """A connector that died reads the rows of a snapshot anew, at another time, and sends no copies of them."""
    value = json.loads(record.value()) if record.value() else {}
    return bool(value.get("op") == "r")


def _produce(ground: Ground, records: list[Message]) -> None:
    producer = Producer({"bootstrap.servers": ground.endpoints.kafka, "enable.idempotence": True})
    for record in records:
        producer.produce(record.topic(), record.value(), record.key(), record.partition())
    if producer.flush(30):
        raise TimeoutError("copies of records were not taken by the broker")


def new_snapshot(ground: Ground, choose: random.Random) -> None:
    """A connector and its position are deleted, and it is made anew: it reads all rows again."""
    source = choose.choice(SOURCES)
    connect = ground.connect
    connect.reset(source)
    connect.delete(source)
    ground.workers.command("recover", source)
    connect.wait_running(source, 60)
    connect.close()


def resnapshot(ground: Ground, choose: random.Random) -> None:
    """A table is read anew while everything runs."""
    _run_and_kill(ground, choose, "resnapshot", choose.choice(list(TOPICS.values())), longest=8)


def kill_backfill(ground: Ground, choose: random.Random) -> None:
    _run_and_kill(ground, choose, "backfill")


def kill_replay(ground: Ground, choose: random.Random) -> None:
    """The letters of the last minute are sent again; nothing was mended, so they come back as letters."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() - 60))
    _run_and_kill(ground, choose, "letters", "replay", "--all", "--since", since)


def kill_compaction(ground: Ground, choose: random.Random) -> None:
    """The lake's files are merged while workers merge them, too."""
    _run_and_kill(ground, choose, "compact")


def _run_and_kill(ground: Ground, choose: random.Random, *command: str, longest: float = 3) -> None:
    """Killed somewhere on its way, twice; half of the time it is left to its end afterwards."""
    for _ in range(2):
        ground.workers.command(*command, killed_after=choose.uniform(0.3, longest))
    if choose.random() < 0.5:
        ground.workers.command(*command)


KINDS: dict[str, tuple[Strike, int]] = {
    "kill a worker": (kill_worker, 12),
    "freeze a worker": (freeze_worker, 4),
    "rebalance storm": (storm, 4),
    "kill kafka": (kill_service("kafka"), 4),
    "kill connect": (kill_service("connect"), 5),
    "kill redis": (kill_service("redis"), 5),
    "kill postgres": (kill_service("postgres"), 4),
    "empty redis": (empty_redis, 2),
    "lake gone": (lake_gone, 4),
    "lake read-only": (lake_read_only, 4),
    "lake full": (lake_full, 4),
    "rewind offsets": (rewind, 5),
    "deliver again": (deliver_again, 5),
    "deliver out of order": (deliver_out_of_order, 5),
    "new snapshot": (new_snapshot, 2),
    "kill a resnapshot": (resnapshot, 2),
    "kill a compaction": (kill_compaction, 2),
    "kill a backfill": (kill_backfill, 2),
    "kill a letters replay": (kill_replay, 2),
    **{f"die at {when}{step}": (die_at(f"{when}{step}"), 2) for step in STEPS for when in ("", "before_")},
}
"""By name: what it does, and how often it comes compared to the others."""

CALM = frozenset({"new snapshot"})
"""Faults that strike once their window's transactions are all read from the database: a delete that goes by
between two snapshots is nowhere in the log."""
