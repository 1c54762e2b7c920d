"""Plans over replies made by hand: statuses, ages, one read for all views of an entity, and the answer's bytes."""

import asyncio
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from serving.answer import features_answer
from serving.features import Found
from serving.gate import Gate, Overloaded
from serving.messages import response
from serving.moments import moments, rfc3339
from serving.plan import InvalidRequest, Plan, PlannedFeature, PlannedView
from serving.request import by_join_key, join_keys
from stores.entity_keys import INT32, STRING, UNIX_TIMESTAMP, entity_keys
from stores.fields import fields_of
from stores.hash_reads import HashRead
from stores.view import Feature, View

HOUR = 3_600.0
NOW = 1_360_638_000.0


def view(name: str, *types: int) -> View:
    features = tuple(Feature(f"f{number}", kind, pa.null()) for number, kind in enumerate(types))
    return View("nyc", name, name, "state", (Feature("id", 4, pa.int64()),), features)


def plan(ttl: float = HOUR) -> Plan:
    """Two views of one entity: a float and a text, and a timestamp without a ttl."""
    first, second = view("first", 5, 2), view("second", 8)
    fields = [fields_of(first), fields_of(second)]
    names = tuple(name for known in fields for name in (known.timestamp, *known.features))
    read = HashRead(entity_keys(first), ("id",), names)
    return Plan(
        reads=(read,),
        packed_fields=(read.packed_fields(),),
        vectors=(),
        views=(
            PlannedView("first", 0, first, ("id",), 0, 0, ttl),
            PlannedView("second", 2, second, ("id",), 0, 3, 0),
        ),
        features=(
            PlannedFeature("f0", "f0", 0, 1, 5, True),
            PlannedFeature("f1", "f1", 0, 2, 2, True),
            PlannedFeature("seen", "f0", 1, 4, 8, True),
        ),
        requested=("seen", "f0", "f1"),
        keys={"id": 4},
        known_keys={"id": 4},
        entity_names={"thing": "id"},
        request_data=frozenset(),
        decoders=((5, (0,)), (2, (1,)), (8, (2,))),
        timestamps=(2,),
        at_once=None,
    )


def stamp(seconds: float) -> bytes:
    return Timestamp(seconds=int(seconds)).SerializeToString()


def reply(age: float | None, *values: Value | None) -> list[bytes | None]:
    some = [None if value is None else value.SerializeToString() for value in values]
    moment = None if age is None else stamp(NOW - age)
    return [moment, some[0], some[1], moment, some[2]]


REPLIES = [
    reply(HOUR, Value(double_val=1.5), Value(string_val="a"), Value(unix_timestamp_val=7)),
    reply(HOUR + 1, Value(double_val=2.5), Value(string_val="b"), Value(unix_timestamp_val=-(2**63))),
    reply(0, Value(), Value(string_val="c"), Value(unix_timestamp_val=9)),
    reply(None, None, None, None),
]


def test_the_answer() -> None:
    rows = plan().rows(REPLIES, 4, NOW)
    answer = orjson.loads(features_answer(plan(), rows, {"id": [1, 2, 3, 4]}, [], versions=True))
    never = "1970-01-01T00:00:00Z"
    times = ["2013-02-12T02:00:00Z", "2013-02-12T01:59:59Z", "2013-02-12T03:00:00Z", never]
    assert answer["metadata"] == {
        "feature_names": ["id", "seen", "f0", "f1"],
        "feature_view_metadata": [{"name": "first"}, {"name": "second", "version": 2}],
    }
    assert [(c["values"], c["statuses"], c["event_timestamps"]) for c in answer["results"]] == [
        ([1, 2, 3, 4], ["PRESENT"] * 4, [never] * 4),
        ([7, None, 9, None], ["PRESENT", "NULL_VALUE", "PRESENT", "NOT_FOUND"], times),
        ([1.5, None, None, None], ["PRESENT", "OUTSIDE_MAX_AGE", "NULL_VALUE", "NOT_FOUND"], times),
        (["a", None, "c", None], ["PRESENT", "OUTSIDE_MAX_AGE", "PRESENT", "NOT_FOUND"], times),
    ]


def test_answers_to_many_entities_leave_nothing_behind() -> None:
    features_answer(plan(), plan().rows(REPLIES[:1], 1, NOW), {"id": [1]}, [], versions=False)
    tracemalloc.start()
    try:
        for count in range(5_000, 5_005):
            rows = plan().rows(REPLIES[:1] * count, count, NOW)
            features_answer(plan(), rows, {"id": list(range(count))}, [], versions=False)
            del rows
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 100_000  # bytes


def test_all_views_of_an_entity_are_one_command() -> None:
    first, second = plan().commands(plan().hashes({"id": [1, -2]}))
    fields = b"".join(b"$%d\r\n%s\r\n" % (len(name), name) for name in plan().reads[0].fields)
    for packed, number in ((first, 1), (second, -2)):
        key = EntityKey(join_keys=["id"], entity_values=[Value(int64_val=number)])
        name = serialize_entity_key(key, 3) + b"nyc"
        assert packed == b"*7\r\n$5\r\nHMGET\r\n$%d\r\n%s\r\n%s" % (len(name), name, fields)


KINDS: list[tuple[int, str, Any]] = [
    (1, "bytes_val", b"\x00\xff"),
    (2, "string_val", "Žluť"),
    (3, "int32_val", -5),
    (4, "int64_val", 2**40),
    (8, "unix_timestamp_val", -86_400),
]


def test_composite_keys_are_feasts() -> None:
    keys = tuple(Feature(f"k{kind}", kind, pa.null()) for kind, _, _ in reversed(KINDS))
    codec = entity_keys(View("nyc", "v", "v", "state", keys, ()))
    read = HashRead(codec, tuple(key.name for key in codec.join_keys), ())
    entity = EntityKey(
        join_keys=[f"k{kind}" for kind, _, _ in KINDS], entity_values=[Value(**{field: v}) for _, field, v in KINDS]
    )
    found = read.keys({f"k{kind}": [value] for kind, _, value in KINDS})
    assert found == [serialize_entity_key(entity, 3) + b"nyc"]


def test_of_several_keys_the_one_that_does_not_fit_is_named() -> None:
    keys = Feature("line", STRING, pa.string()), Feature("number", INT32, pa.int32())
    read = HashRead(entity_keys(View("nyc", "v", "v", "state", keys, ())), ("line", "flight"), ())
    assert read.unfit({"line": ["UA", "DL"], "flight": [1, 2**31]}) == ["flight"]
    assert read.unfit({"line": ["UA", "\ud800"], "flight": [1, 2]}) == ["line"]
    assert read.unfit({"line": ["UA"], "flight": [1]}) == []


def test_an_entity_by_its_name_is_its_join_key() -> None:
    """As Feast takes it; in Feast, what comes last overwrites the other."""
    by_key = {"id": [1, 2]}
    assert by_join_key(plan(), by_key) is by_key
    assert by_join_key(plan(), {"thing": [1, 2], "else": [3, 4]}) == {"id": [1, 2], "else": [3, 4]}
    for given in ({"id": [1], "thing": [2]}, {"thing": [2], "id": [1]}):
        with pytest.raises(InvalidRequest, match="entities has 'id' twice, once by the name of its entity"):
            by_join_key(plan(), given)


def test_a_key_that_does_not_fit() -> None:
    with pytest.raises(InvalidRequest, match=r"entities\.id has a value that its type cannot hold"):
        plan().hashes({"id": [2**63]})
    with pytest.raises(InvalidRequest, match=r"entities\.id must be INT64, and holds str"):
        join_keys(plan(), {"id": [1, "2"]})


@pytest.mark.parametrize(
    ("micros", "shown"),
    [(0, "00:00:00Z"), (1_500_000, "00:00:01.500Z"), (1, "00:00:00.000001Z"), (86_399_000_000, "23:59:59Z")],
)
def test_event_times_as_feast_writes_them(micros: int, shown: str) -> None:
    assert rfc3339(micros) == f"1970-01-01T{shown}"
    moment = datetime.fromtimestamp(micros / 1e6, UTC)
    stored = Timestamp()
    stored.FromDatetime(moment)
    assert moments([stored.SerializeToString()]) == [(micros, f"1970-01-01T{shown}")]


def test_an_early_year_has_four_digits() -> None:
    """As RFC 3339 has it; Python's fromisoformat, and so the client, reads no other."""
    moment = datetime(385, 7, 4, 12, 30, tzinfo=UTC)
    micros = int(moment.timestamp()) * 1_000_000
    assert rfc3339(micros) == "0385-07-04T12:30:00Z"
    assert datetime.fromisoformat(rfc3339(micros + 500_000)) == moment.replace(microsecond=500_000)


@pytest.mark.parametrize(
    ("seconds", "shown", "status"),
    [
        (253_402_300_800, "9999-12-31T23:59:59.999999Z", "PRESENT"),
        (2**62, "9999-12-31T23:59:59.999999Z", "PRESENT"),
        (-62_135_596_801, "0001-01-01T00:00:00Z", "OUTSIDE_MAX_AGE"),
        (-(2**62), "0001-01-01T00:00:00Z", "OUTSIDE_MAX_AGE"),
    ],
)
def test_an_event_time_that_no_calendar_has_spoils_no_answer(seconds: int, shown: str, status: str) -> None:
    """Feast's client takes seconds of any size from whoever writes."""
    odd = [stamp(seconds), *REPLIES[0][1:]]
    rows = plan().rows([odd, REPLIES[0]], 2, NOW)
    answer = orjson.loads(features_answer(plan(), rows, {"id": [1, 2]}, [], versions=False))
    feature = answer["results"][2]
    assert feature["event_timestamps"] == [shown, "2013-02-12T02:00:00Z"]
    assert feature["statuses"] == [status, "PRESENT"]
    by_grpc = GetOnlineFeaturesResponse.FromString(
        response(GetOnlineFeaturesRequest(), Found(plan(), {}, rows, []), versions=False)
    )
    moment = by_grpc.results[1].event_timestamps[0].ToDatetime(UTC)
    assert moment == datetime.fromisoformat(shown)
    assert rfc3339(seconds * 1_000_000) == shown


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02T00:00:00Z", 86_400),
        ("1970-01-01T00:00:01.999999+00:00", 1),
        ("1969-12-31T23:59:59.5Z", -1),
        ("1969-12-31T23:59:59", -1),
        ("0385-07-04T12:30:00.25Z", -50_001_795_000),
    ],
)
def test_the_moment_of_a_key_is_in_the_second_where_the_writer_puts_it(text: str, seconds: int) -> None:
    keyed = replace(plan(), keys={"seen": UNIX_TIMESTAMP}, known_keys={"seen": UNIX_TIMESTAMP})
    assert join_keys(keyed, {"seen": [text]}) == {"seen": [seconds]}
    micros = pa.timestamp("us", "UTC")
    written = pa.table({"seen": pa.array([datetime.fromisoformat(text)], micros)})
    codec = entity_keys(View("nyc", "v", "v", "state", (Feature("seen", UNIX_TIMESTAMP, micros),), ()))
    key = EntityKey(join_keys=["seen"], entity_values=[Value(unix_timestamp_val=seconds)])
    assert codec.encode(written).to_pylist() == [serialize_entity_key(key, 3) + b"nyc"]


async def fill(gate: Gate) -> list[str]:
    """One works, one waits, one is turned away."""

    log: list[str] = []

    async def ask(name: str) -> None:
        try:
            await gate.enter()
        except Overloaded:
            log.append(f"{name} turned away")
            return
        log.append(f"{name} in")
        await asyncio.sleep(0.01)
        gate.leave()

    await asyncio.gather(ask("first"), ask("second"), ask("third"))
    await ask("fourth")
    return log


def test_the_gate() -> None:

    gate = Gate(places=1, queue=1)
    assert asyncio.run(fill(gate)) == ["first in", "third turned away", "second in", "fourth in"]
    assert gate.active == 0


def test_who_gives_up_waiting_keeps_nobody_from_it() -> None:
    async def visit() -> None:
        gate = Gate(1, 1)
        await gate.enter()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(gate.enter(), 0.01)
        gate.look()
        waiting = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            gate.look()
        gate.leave()
        await waiting
        assert gate.active == 1

    asyncio.run(visit())
