"""Is everything right? By stock readers alone: Feast's Redis store, delta-rs, SQL, a plain Kafka consumer.

Nothing of the code under test decides here, except for the embedding model that gives a text's vector, and the
point-in-time joins, which are themselves under test (tests/chaos/history.py).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from confluent_kafka import Consumer, Message, TopicPartition
from deltalake import DeltaTable

from streams.embedders import WordLlamaEmbedder
from tests.chaos.ground import LETTERS, PARTITIONS, PROJECT, TOPICS, Ground
from tests.chaos.history import wrong_joins
from tests.chaos.ledger import PRIMARY_KEY, Ledger, Row
from tests.chaos.served import VECTOR_VIEW, VIEWS

KINDS = ("lost", "stale", "undead", "doubled", "foreign", "misjoined")
SHOWN = 12


@dataclass(slots=True)
class Verdict:
    """What is wrong, by kind: `lost` changes or entities, `stale` values, `undead` entities, `doubled` changes,
    `foreign` ones that nobody committed, `misjoined` values of point-in-time joins. Beside it, what is `uncaptured`:
    the second half of a changed key, which no topic holds where Debezium died between the halves (debezium/dbz#2549).
    """

    found: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    uncaptured: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str) -> None:
        self.found[kind].append(what)

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.found.values())

    def counts(self) -> dict[str, int]:
        return {kind: len(found) for kind, found in self.found.items()}

    def lines(self) -> Iterator[str]:
        """The first of each kind, for people."""
        for kind, found in [*self.found.items(), ("uncaptured", self.uncaptured)]:
            yield from (f"{kind}: {what}" for what in found[:SHOWN])
            if len(found) > SHOWN:
                yield f"{kind}: and {len(found) - SHOWN} more"


def judge(ground: Ground, ledger: Ledger) -> Verdict:
    """Compare everything with the ledger. Nothing may be in flight."""
    verdict = Verdict()
    _postgres(ground, ledger, verdict)
    _changes(ground, ledger, verdict)
    _online(ground, ledger, verdict)
    _lake(ground, ledger, verdict)
    for line in wrong_joins(ground, ledger):
        verdict.add("misjoined", line)
    _vectors(ground, ledger, verdict)
    return verdict


def _postgres(ground: Ground, ledger: Ledger, verdict: Verdict) -> None:
    """The ledger itself is right."""
    with psycopg.connect(ground.database) as connection:
        for table, key in PRIMARY_KEY.items():
            held: dict[int, int] = dict(connection.execute(f"select {key}, v from {table}").fetchall())
            wanted = {k: row["v"] for k, row in ledger.rows(table).items()}
            if held != wanted:
                raise AssertionError(f"the ledger of {table} is not what PostgreSQL holds: {held} != {wanted}")


def _changes(ground: Ground, ledger: Ledger, verdict: Verdict) -> None:
    """Each accepted change stands once in `changes/`, each rejected one is among the letters."""
    letters = _letters(ground)
    for table, topic in TOPICS.items():
        key = PRIMARY_KEY[table]
        columns = [key, "v", "_op", "_lsn", "_partition", "_offset"]
        rows = _table(ground, f"changes/{topic}", columns)
        for place, times in Counter((r["_partition"], r["_offset"]) for r in rows).items():
            if times > 1:
                verdict.add("doubled", f"{topic}: {times} rows of partition and offset {place}")
        for (k, lsn, op), times in Counter((r[key], r["_lsn"], r["_op"]) for r in rows if r["_op"] != "t").items():
            if times > 1:
                where = [(r["_partition"], r["_offset"]) for r in rows if (r[key], r["_lsn"]) == (k, lsn)]
                verdict.add("doubled", f"{topic}: {op} of {key} {k} at LSN {lsn} stands {times} times: {where}")
        alone = _first_halves(ground, topic, table)
        _written(ledger, table, [r for r in rows if r["_op"] in "cu"], letters[topic], alone, verdict)
        told = _reconciled(ground, topic, PARTITIONS[table])
        deletes = {(r[key], r["_lsn"]) for r in rows if r["_op"] == "d" and (r["_partition"], r["_offset"]) not in told}
        deleted = Counter(k for k, _ in deletes)
        _deletes(ledger.deletes(table), deleted, topic, verdict)
        _records(ground, topic, table, rows, letters[topic], verdict)


def _first_halves(ground: Ground, topic: str, table: str) -> set[int]:
    """The new keys of rows whose key was changed, of which the topic holds the delete and no create."""
    key, told, came = PRIMARY_KEY[table], set(), set()
    for record in _topic(ground, topic, PARTITIONS[table]):
        value = json.loads(record.value() or b"null")
        if value is None:
            continue
        if (new := dict(record.headers() or ()).get("__debezium.newkey")) is not None:
            told.add((json.loads(new)[key], value["source"]["lsn"]))
        if value["after"] is not None:
            came.add((value["after"][key], value["source"]["lsn"]))
    return {k for k, _ in told - came}


def _written(
    ledger: Ledger, table: str, rows: list[Row], letters: "list[Letter]", alone: set[int], verdict: Verdict
) -> None:
    topic, held = TOPICS[table], {row["v"] for row in rows}
    accepted, rejected = (ledger.versions(table, accepted=yes) for yes in (True, False))
    written = {letter.v for letter in letters}
    for v, k in accepted.items():
        if v not in held and k in alone:
            verdict.uncaptured.append(f"{topic}: version {v} of row {k}, whose key was changed")
        elif v not in held:
            verdict.add("lost", f"{topic}: version {v} of row {k} is not among the changes")
        if v in written:
            verdict.add("foreign", f"{topic}: version {v} of row {k} was accepted, and is among the letters")
    for v, k in rejected.items():
        if v not in written:
            verdict.add("lost", f"{topic}: the rejected version {v} of row {k} is not among the letters")
    for v in held - set(accepted):
        verdict.add("foreign", f"{topic}: version {v} is among the changes, and was never committed, or is bad")
    for v, times in Counter(row["v"] for row in rows).items():
        if times > 1:
            verdict.add("doubled", f"{topic}: version {v} stands {times} times among the changes")


def _deletes(wanted: Counter[int], held: Counter[int], topic: str, verdict: Verdict) -> None:
    for k in wanted | held:
        if held[k] < wanted[k]:
            verdict.add("lost", f"{topic}: row {k} was deleted {wanted[k]} times, the changes hold {held[k]}")
        if held[k] > wanted[k]:
            verdict.add("foreign", f"{topic}: row {k} was deleted {wanted[k]} times, the changes hold {held[k]}")


def _reconciled(ground: Ground, topic: str, partitions: int) -> set[tuple[int, int]]:
    """Places of the deletes by which `resnapshot` and `recover` tell that a row has left an entity: PostgreSQL sent
    none of them, and the row is there."""
    records = _topic(ground, topic, partitions)
    return {(r.partition(), r.offset()) for r in records if "millrace.reconciled" in dict(r.headers() or ())}


def _records(
    ground: Ground, topic: str, table: str, rows: list[Row], letters: "list[Letter]", verdict: Verdict
) -> None:
    """Each record of the topic is a change, a letter, a tombstone, or says what another record said before."""
    held = {(r["_partition"], r["_offset"]) for r in rows}
    # Rows of a snapshot stand in the lake at the place where it began; their version tells which they are.
    said = {(r[PRIMARY_KEY[table]], r["v" if r["_op"] == "r" else "_lsn"], r["_op"]) for r in rows}
    written = {letter.place for letter in letters}
    for record in _topic(ground, topic, PARTITIONS[table]):
        place = (record.partition(), record.offset())
        if record.value() is None or place in held or place in written:
            continue
        value = json.loads(record.value())
        row, op = value["after"] or value["before"] or {}, value["op"]
        if (row.get(PRIMARY_KEY[table]), row["v"] if op == "r" else value["source"]["lsn"], op) not in said:
            verdict.add("lost", f"{topic}: the record at {place} is neither a change nor a letter")


@dataclass(frozen=True, slots=True)
class Letter:
    """Where the record stood that a letter holds, and the version that it wrote."""

    place: tuple[int, int]
    v: int | None


def _letters(ground: Ground) -> dict[str, list[Letter]]:
    """All letters by topic."""
    found: dict[str, list[Letter]] = {topic: [] for topic in TOPICS.values()}
    for record in _topic(ground, LETTERS, 1):
        headers = dict(record.headers())
        place = int(headers["millrace.partition"]), int(headers["millrace.offset"])
        after = json.loads(record.value())["after"]
        found[headers["millrace.topic"].decode()].append(Letter(place, after["v"] if after else None))
    return found


def _online(ground: Ground, ledger: Ledger, verdict: Verdict) -> None:
    """Feast's own Redis store serves what must be served, and nothing else is in Redis."""
    store = ground.feast()
    for view, served in VIEWS.items():
        wanted = served.wanted(ledger)
        entities = sorted(ledger.keys(served.table, served.column))
        answer = store.get_online_features(
            [f"{view}:{name}" for name in served.features], [{served.key: entity} for entity in entities]
        ).to_dict()
        for i, entity in enumerate(entities):
            got = {name: answer[name][i] for name in served.features}
            value = None if all(v is None for v in got.values()) else got
            _compare(f"online {view} {entity}", wanted.get(entity), value, verdict)
        with ground.redis() as client:
            present = sum(client.hexists(key, f"_ts:{view}") for key in client.scan_iter(count=1_000))
        if present != len(wanted):
            verdict.add("undead", f"online {view}: {present} entities have features, {len(wanted)} should")


def _compare(what: str, wanted: Mapping[str, Any] | None, got: Mapping[str, Any] | None, verdict: Verdict) -> None:
    if wanted == got:
        return
    kind = "lost" if got is None else "undead" if wanted is None else "stale"
    verdict.add(kind, f"{what}: {_brief(got)} instead of {_brief(wanted)}")


def _brief(values: Mapping[str, Any] | None) -> str:
    return "nothing" if values is None else f"{ {name: str(v)[:40] for name, v in values.items()} }"


def _lake(ground: Ground, ledger: Ledger, verdict: Verdict) -> None:
    """The newest rows of `features/` are what must be served: of each source row its newest version, of those
    that remain the newest."""
    for view, served in [*VIEWS.items(), ("article_search", VECTOR_VIEW)]:
        columns = [served.key, *served.features, "event_timestamp", "_lsn", "_row", "_deleted", "_partition", "_offset"]
        newest: dict[Any, Row] = {}
        places: Counter[Any] = Counter()
        for row in _table(ground, f"features/{view}", columns):
            source = (row["_row"], row[served.key])
            if not row["_deleted"]:
                places[row["_partition"], row["_offset"], *source] += 1
            if source not in newest or row["_lsn"] >= newest[source]["_lsn"]:
                newest[source] = row
        for place, times in places.items():
            if times > 1:
                verdict.add("doubled", f"lake {view}: {times} rows of {place}")
        held: dict[Any, Row] = {}
        for row in (row for row in newest.values() if not row["_deleted"]):
            entity = row[served.key]
            if entity not in held or row["event_timestamp"] > held[entity]["event_timestamp"]:
                held[entity] = row
        wanted = served.wanted(ledger)
        for entity in wanted.keys() | held.keys():
            got = {name: held[entity][name] for name in served.features} if entity in held else None
            _compare(f"lake {view} {entity}", wanted.get(entity), got, verdict)


def _vectors(ground: Ground, ledger: Ledger, verdict: Verdict) -> None:
    """pgvector holds the vector of each article's text as it is now, and of no other."""
    rows = ledger.accepted_rows("articles")
    keys = sorted(rows)
    texts = [f"{rows[k]['title']}\n{rows[k]['body']}" for k in keys]
    wanted = dict(zip(keys, WordLlamaEmbedder().embed(texts) if texts else (), strict=True))
    dsn = ground.endpoints.environment()["MILLRACE_VECTORS"].replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(dsn) as connection:
        query = f"select article, title, v, meaning::text from features_{PROJECT}.article_search where not _deleted"
        held = {article: (title, v, meaning) for article, title, v, meaning in connection.execute(query)}
    for k in wanted.keys() | held.keys():
        title, v, meaning = held.get(k, (None, None, None))
        expected = {"title": rows[k]["title"], "v": rows[k]["v"]} if k in wanted else None
        _compare(f"vectors article {k}", expected, None if v is None else {"title": title, "v": v}, verdict)
        if k in wanted and v is not None and not meaning:
            verdict.add("lost", f"vectors article {k}: it has no vector")
        elif k in wanted and meaning and not np.allclose(json.loads(meaning), wanted[k], atol=1e-3):
            verdict.add("stale", f"vectors article {k}: the vector is that of another text")


def _table(ground: Ground, name: str, columns: list[str]) -> list[Row]:
    rows: list[Row] = DeltaTable(str(ground.lake / name)).to_pyarrow_table(columns=columns).to_pylist()
    return rows


def _topic(ground: Ground, topic: str, partitions: int) -> Iterable[Message]:
    consumer = Consumer({"bootstrap.servers": ground.endpoints.kafka, "group.id": "chaos-verdict"})
    try:
        left = {}
        for number in range(partitions):
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            if first < end:
                left[number] = end
        consumer.assign([TopicPartition(topic, number, 0) for number in left])
        while left:
            for record in consumer.consume(1_000, 1.0):
                if record.error() is None:
                    if record.offset() + 1 >= left.get(record.partition(), 0):
                        left.pop(record.partition(), None)
                    yield record
    finally:
        consumer.close()
