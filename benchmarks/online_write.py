"""How many rows a second the online store takes, beside its floors and Feast's own writing.

Starts a Redis of its own and prints one JSON object a line: `rows_per_second` (the best of the rounds),
`client_us` and `redis_us` (processor time a row, of this process and of Redis, in that round). Ten float
features, one view, distinct entities, an entity key of one INT64.

    python -m benchmarks.online_write [--rows 50000] [--feast-rows 5000] [--rounds 5]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64
from feast.utils import _convert_arrow_to_proto

from stores.fields import fields_of
from stores.online import RedisAddress, RedisOnline
from stores.operations import bulk, command
from stores.rows import TIMESTAMP, FeatureRows, rows_schema
from stores.view import Feature, View
from tests.redis_server import RedisServer

FEATURES = 10
START = datetime(2013, 2, 12, tzinfo=UTC)

VIEW = View(
    "bench",
    "bench",
    "bench",
    "state",
    (Feature("id", 4, pa.int64()),),
    tuple(Feature(f"f{number}", 5, pa.float64()) for number in range(FEATURES)),
)

LEAST_SCRIPT = """
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored and struct.unpack('>I4', stored, 5) > struct.unpack('>I4', ARGV[2], 5) then return '0' end
redis.call('HSET', KEYS[1], unpack(ARGV))
return '1'
"""
"""The least compare-and-set there can be: the floor of ours."""


def feature_rows(count: int, lsn: int, nulls: bool = False) -> FeatureRows:
    """A batch with one row an entity; with `nulls`, a tenth of the values is null."""
    rng = np.random.default_rng(lsn)
    micros = int(START.timestamp()) * 1_000_000 + np.arange(count)
    columns = {
        "id": pa.array(np.arange(count)),
        "event_timestamp": pa.array(micros).cast(TIMESTAMP),
        "created_timestamp": pa.array(micros).cast(TIMESTAMP),
        "_lsn": pa.array(np.full(count, lsn)),
        "_row": pa.nulls(count, pa.binary(16)),
        "_deleted": pa.array(np.zeros(count, bool)),
        "_partition": pa.array(np.zeros(count, np.int32)),
        "_offset": pa.array(np.arange(count)),
    }
    for feature in VIEW.features:
        columns[feature.name] = pa.array(rng.random(count), mask=rng.random(count) < 0.1 if nulls else None)
    schema = rows_schema(VIEW)
    return FeatureRows(VIEW, pa.table([columns[name] for name in schema.names], schema=schema))


class Meter:
    """Times rounds of some work against one Redis."""

    def __init__(self, client: redis.Redis, rounds: int) -> None:
        self._client = client
        self.rounds = rounds

    def report(self, what: str, rows: int, work: Callable[[int], object]) -> None:
        """Runs `work(round)` and prints its best round."""
        best: dict[str, float] = {}
        for number in range(self.rounds):
            wall, client, server = time.perf_counter(), time.process_time(), self._redis_seconds()
            work(number)
            seconds = time.perf_counter() - wall
            round_ = {
                "rows_per_second": round(rows / seconds),
                "client_us": round((time.process_time() - client) / rows * 1e6, 2),
                "redis_us": round((self._redis_seconds() - server) / rows * 1e6, 2),
            }
            if not best or round_["rows_per_second"] > best["rows_per_second"]:
                best = round_
        print(json.dumps({"what": what, "rows": rows, **best}), flush=True)

    def _redis_seconds(self) -> float:
        usage: Any = self._client.info("cpu")  # redis-py's types let it be one to await
        return float(usage["used_cpu_user"]) + float(usage["used_cpu_sys"])


def floors(client: redis.Redis, port: int, meter: Meter, count: int) -> None:
    """Packed beforehand: what Redis alone takes."""
    fields = fields_of(VIEW)
    connection: Any = redis.Connection(port=port)  # type: ignore[no-untyped-call]  # redis-py's have no types
    connection.connect()
    sha = client.script_load(LEAST_SCRIPT).encode()  # type: ignore[union-attr]  # redis-py: one to await, or not
    version, stamp, value = bytes(33), b"\x08\x80\xe5\xe7\x88\x05", b"\x29" + bytes(8)
    pairs = [argument for field in fields.features for argument in (field, value)]
    for what, head in (
        ("floor: HSET, pipelined", [b"HSET"]),
        ("floor: the least Lua compare-and-set", [b"EVALSHA", sha, b"1"]),
    ):
        rest = b"".join(map(bulk, (fields.version, version, fields.timestamp, stamp, *pairs)))
        start = b"*%d\r\n%s" % (len(head) + 1 + 4 + len(pairs), b"".join(map(bulk, head)))
        packed = b"".join(start + bulk(b"floor%020d" % number) + rest for number in range(count))

        def work(_: int, packed: bytes = packed) -> None:
            connection.send_packed_command([packed])
            for _reply in range(count):
                connection.read_response()

        meter.report(what, count, work)
    connection.send_packed_command([command(b"FLUSHALL")])
    connection.read_response()


def ours(online: RedisOnline, meter: Meter, count: int) -> None:
    """`RedisOnline.write`, from Arrow rows to the last reply."""
    first, newer, with_nulls = feature_rows(count, 1), feature_rows(count, 2), feature_rows(count, 3, nulls=True)
    online.write([first])
    meter.report("millrace: update", count, lambda _: online.write([newer]))
    meter.report("millrace: update, a tenth null", count, lambda _: online.write([with_nulls]))
    meter.report("millrace: refused", count, lambda _: online.write([newer]))


def by_feast(port: int, meter: Meter, count: int) -> None:
    """Feast's own writing of the same rows, each round with a later event time."""
    with tempfile.TemporaryDirectory() as folder:
        feast = FeatureStore(
            config=RepoConfig(
                project="feast",
                provider="local",
                registry=str(Path(folder) / "registry.db"),
                online_store={"type": "redis", "connection_string": f"127.0.0.1:{port}"},
                offline_store={"type": "dask"},
                entity_key_serialization_version=3,
            )
        )
        entity = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
        fields = [Field(name=feature.name, dtype=Float64) for feature in VIEW.features]
        source = FileSource(name="source", path="nowhere.parquet", timestamp_field="event_timestamp")
        view = FeatureView(
            name="bench", entities=[entity], schema=[Field(name="id", dtype=Int64), *fields], source=source
        )
        feast.apply([entity, view])
        names = ["id", *(feature.name for feature in VIEW.features)]
        table = feature_rows(count, 1).table.select(names)

        def at(number: int) -> list[datetime]:
            return [START + timedelta(minutes=number)] * count

        def frame(number: int) -> pd.DataFrame:
            return table.to_pandas().assign(event_timestamp=at(number))

        meter.report("feast: write_to_online_store", count, lambda n: feast.write_to_online_store("bench", frame(n)))
        applied = feast.get_feature_view("bench")

        def protos(number: int) -> list[object]:
            timed = table.append_column("event_timestamp", pa.array(at(number), TIMESTAMP)).combine_chunks()
            return list(_convert_arrow_to_proto(timed, applied, {"id": ValueType.INT64}))

        batches = [protos(100 + number) for number in range(meter.rounds)]
        online = feast._get_provider().online_store
        meter.report(
            "feast: online_write_batch of ready protobufs",
            count,
            lambda number: online.online_write_batch(feast.config, applied, batches[number], None),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--feast-rows", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    server = RedisServer().start()
    try:
        client = redis.Redis(port=server.port)
        meter = Meter(client, arguments.rounds)
        floors(client, server.port, meter, arguments.rows)
        ours(RedisOnline(RedisAddress.parse(server.connection_string), 3_600), meter, arguments.rows)
        by_feast(server.port, meter, arguments.feast_rows)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
