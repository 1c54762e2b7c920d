"""The vector store on a real PostgreSQL with pgvector."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from feast.filter_models import ComparisonFilter

from stores.entity_keys import entity_keys
from stores.errors import StoreRefused, StoreUnavailable
from stores.rows import EMBEDDING, TIMESTAMP, FeatureRows, WriteResult, rows_schema
from stores.vector_limits import ENTITY_KEY_BYTES, FIRST_MOMENT
from stores.vectors import PgVectors
from stores.view import Feature, Kind, Vector, View
from streams.patience import Patience
from tests.feature_writer_suite import FeatureWriterSuite, Store, by_inspection
from tests.integration.database import Database
from tests.integration.places import FLOATS, MODEL, NOON, RETENTION, place_rows, place_view


@pytest.fixture(scope="module")
def vectors(database: Database) -> Iterator[PgVectors]:
    store = PgVectors(database.url, RETENTION)
    yield store
    store.close()


def suite_view(name: str, kind: Kind) -> View:
    """The view that the suite writes, with a vector beside its features."""
    features = (Feature("x", 4, pa.int64()), Feature("name", 2, pa.string()), Feature("v", 16, FLOATS))
    vector = Vector("v", 3, "l2", ("name",))
    return View("suite", name, name, kind, (Feature("id", 4, pa.int64()),), features, vector=vector)


class TestPgVectors(FeatureWriterSuite):
    @pytest.fixture
    def store(self, vectors: PgVectors) -> Store:
        views = [suite_view("s", "state"), suite_view("o", "state"), suite_view("e", "event")]
        for view in views:
            vectors.create(view, MODEL)
        return Store(vectors, by_inspection(vectors), *views)


def test_a_worker_waits_for_the_table_of_a_view(vectors: PgVectors) -> None:
    """That is just being taken away, or was dropped by hand: the worker is told of it by `apply`, at its end."""
    view = place_view("waited_for")
    waiting = Patience(lambda seconds: vectors.create(view, MODEL))
    assert waiting(partial(vectors.write, [place_rows(view, [[1.0, 0.0, 0.0]])])) == WriteResult(1, 0)


def test_a_small_batch_does_not_read_the_whole_table(vectors: PgVectors, database: Database) -> None:
    view = place_view("many")
    vectors.create(view, MODEL)
    vectors.write([place_rows(view, [[1.0, 0.0, 0.0]] * 2_000)])
    vectors.close()  # a connection that ends tells PostgreSQL's statistics what it did
    with psycopg.connect(database.dsn, autocommit=True) as sql:
        sql.execute("analyze")

        def seen(updated: int) -> int:
            """How often the whole table was read, once so many rows are known to have been updated."""
            while True:
                query = "select n_tup_upd, seq_scan from pg_stat_user_tables where relname = 'many'"
                updates, scans = sql.execute(query).fetchone() or (0, 0)
                if updates >= updated:
                    return int(scans)
                time.sleep(0.05)

        before = seen(2_000)
        for lsn in (2, 3):
            assert vectors.write([place_rows(view, [[0.0, 1.0, 0.0]] * 3, lsn=lsn)]) == WriteResult(3, 0)
        vectors.close()
        assert seen(2_006) == before


def test_every_type_comes_back(vectors: PgVectors) -> None:
    types = {
        "b": (1, pa.binary(), [b"\0\xff", b"", None]),
        "s": (2, pa.string(), ["Ä 😀", "", None]),
        "i": (3, pa.int32(), [-(2**31), 0, None]),
        "l": (4, pa.int64(), [-(2**63), 2**63 - 1, None]),
        "d": (5, pa.float64(), [float("inf"), 1e-300, None]),
        "f": (6, pa.float32(), [-float("inf"), 0.5, None]),
        "t": (7, pa.bool_(), [True, False, None]),
        "ts": (8, TIMESTAMP, [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 1, UTC), None]),
        "bs": (11, pa.list_(pa.binary()), [[b"a", b""], [], None]),
        "ss": (12, pa.list_(pa.string()), [["a", None, '{,}"'], [], None]),
        "is": (13, pa.list_(pa.int32()), [[1, -1], [], None]),
        "ls": (14, pa.list_(pa.int64()), [[2**63 - 1], [], None]),
        "ds": (15, pa.list_(pa.float64()), [[0.1, 2.0], [], None]),
        "fs": (16, FLOATS, [[0.5], [], None]),
        "tfs": (17, pa.list_(pa.bool_()), [[True, False], [], None]),
        "tss": (18, pa.list_(TIMESTAMP), [[NOON], [], None]),
        'Quoted "name"': (4, pa.int64(), [1, 2, None]),
        "v": (16, FLOATS, [[1.0, -0.5], [1e-30, 3.4e38], None]),
    }
    features = tuple(Feature(name, number, arrow) for name, (number, arrow, _) in types.items())
    keys = (Feature("Key", 1, pa.binary()),)
    view = View('Odd "project"', "types", "t" * 80, "state", keys, features, vector=Vector("v", 2, "l2", ()))
    columns = {
        "Key": [b"\0", b"\xff", b"c"],
        **{name: values for name, (_, _, values) in types.items()},
        "event_timestamp": [NOON] * 3,
        "created_timestamp": [NOON] * 3,
        "_lsn": [1, 2, 3],
        "_row": [None] * 3,
        "_deleted": [False] * 3,
        "_partition": [0] * 3,
        "_offset": [0] * 3,
        "_text_hash": [None] * 3,
        "_model": [MODEL] * 3,
    }
    schema = pa.schema([*rows_schema(view), *EMBEDDING])
    table = pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names})
    vectors.create(view, MODEL)
    assert vectors.write([FeatureRows(view, table)]) == WriteResult(3, 0)
    (read,) = vectors.read([view], table)
    names = [feature.name for feature in features]
    assert read.select(names).equals(table.select(names))
    assert read["event_timestamp"].to_pylist() == [NOON] * 3
    (scanned,) = vectors.scan(view)
    assert scanned.sort_by("_lsn").select(["Key", *names]).equals(table.select(["Key", *names]))


def test_infinite_event_times_do_not_stop_a_batch(vectors: PgVectors) -> None:
    view = place_view("far")
    vectors.create(view, MODEL)
    rows = place_rows(view, [[1, 0, 0]])
    far = pa.array([200_000 * 365 * 86_400 * 1_000_000], pa.int64()).cast(TIMESTAMP)
    place = rows.table.schema.get_field_index("event_timestamp")
    table = rows.table.set_column(place, rows.table.schema.field(place), far)
    vectors.write([FeatureRows(view, table)])
    (read,) = vectors.read([view], table)
    assert read["event_timestamp"].combine_chunks().equals(far)


def test_an_unknown_and_a_deleted_entity_are_absent(vectors: PgVectors) -> None:
    view = place_view("absent")
    vectors.create(view, MODEL)
    vectors.write([place_rows(view, [[1, 0, 0]])])
    vectors.write([place_rows(view, [[1, 0, 0]], lsn=2, deleted=True)])
    keys = pa.table({"runway": pa.array([1, 1], pa.int32()), "faa": ["a0", "zz"]})
    found = vectors.inspect(view, keys).to_pylist()
    assert [row["_present"] for row in found] == [False, False]
    assert [row["_lsn"] for row in found] == [2, None]
    assert all(row[name] is None for row in found for name in ("state", "v", "event_timestamp"))
    assert vectors.search(view, [1, 0, 0], 5).num_rows == 0


def test_a_table_keeps_to_one_model(vectors: PgVectors) -> None:
    view = place_view("models")
    with pytest.raises(StoreRefused, match="no table yet, run `millrace apply`"):
        vectors.model(view)
    vectors.create(view, MODEL)
    vectors.create(view, MODEL)
    assert vectors.model(view) == MODEL
    with pytest.raises(StoreRefused, match=r"vectors of the model a-model, not of it's new.*DROP TABLE"):
        vectors.create(view, "it's new")
    with pytest.raises(StoreRefused, match="of another or do not say"):
        vectors.write([place_rows(view, [[1, 2, 3]], model="it's new")])
    with pytest.raises(StoreRefused, match="of another or do not say"):
        vectors.write([place_rows(view, [[1, 2, 3]], model=None)])
    longer = replace(view, vector=Vector("v", 4, "cosine", ("state",)))
    with pytest.raises(StoreRefused, match=r"column v of type VECTOR\(3\).*declares VECTOR\(4\)"):
        vectors.create(longer, MODEL)
    with pytest.raises(StoreRefused, match="expected 3 dimensions, not 4"):
        vectors.write([place_rows(longer, [[1, 2, 3, 4]])])
    vectors.drop(view)
    vectors.drop(view)
    vectors.create(longer, "it's new")
    assert vectors.model(longer) == "it's new"


def test_a_first_batch_that_is_refused_does_not_stand_in_the_way_of_the_next(database: Database) -> None:
    store, view = PgVectors(database.url, RETENTION), place_view("refused")
    store.create(view, MODEL)
    with pytest.raises(StoreRefused, match="of another or do not say"):
        store.write([place_rows(view, [[1, 2, 3]], model="it's new")])
    for lsn in (1, 2):
        assert store.write([place_rows(view, [[1, 2, lsn]], lsn=lsn)]).applied == 1
    store.close()


def test_a_view_that_changes(vectors: PgVectors, database: Database) -> None:
    view = place_view("changing")
    vectors.create(view, MODEL)
    vectors.write([place_rows(view, [[1, 0, 0]])])
    more = replace(view, features=(*view.features, Feature("names", 12, pa.list_(pa.string()))))
    with pytest.raises(StoreRefused, match="lacks a declared feature, run `millrace apply`"):
        vectors.inspect(more, pa.table({"faa": ["a0"], "runway": pa.array([1], pa.int32())}))
    vectors.create(more, MODEL)
    assert vectors.search(more, [1, 0, 0], 1)["names"].to_pylist() == [None]
    other = replace(view, features=(Feature("state", 4, pa.int64()), *view.features[1:]))
    with pytest.raises(StoreRefused, match="column state of type TEXT, and the view changing declares BIGINT"):
        vectors.create(other, MODEL)
    vectors.create(replace(view, vector=Vector("v", 3, "l2", ("state",))), MODEL)
    with psycopg.connect(database.dsn) as connection:
        indexes = connection.execute(
            "select indexdef from pg_indexes where tablename = 'changing' and indexdef like '%hnsw%'"
        ).fetchall()
    assert len(indexes) == 1 and "vector_l2_ops" in indexes[0][0]


def test_what_no_table_can_be_made_for(vectors: PgVectors) -> None:
    with pytest.raises(StoreRefused, match="4001 dimensions cannot be indexed, pgvector indexes up to 4000"):
        vectors.create(place_view("endless", length=4_001), MODEL)
    plain = replace(place_view("plain"), vector=None)
    with pytest.raises(StoreRefused, match="no vector field"):
        vectors.create(plain, MODEL)
    view = place_view("odd")
    odd = replace(view, features=(*view.features, Feature("m", 20, pa.map_(pa.string(), pa.string()))))
    with pytest.raises(StoreRefused, match="feature m of type map"):
        vectors.create(odd, MODEL)


def test_vectors_are_found_by_the_hash_of_their_text(vectors: PgVectors) -> None:
    view = place_view("hashes")
    vectors.create(view, MODEL)
    vectors.write([place_rows(view, [[1, 2, 3], [4, 5, 6], None])])
    found = vectors.embedded(view, [i.to_bytes(16) for i in (1, 2, 9)])
    assert {key: value.tolist() for key, value in found.items()} == {(1).to_bytes(16): [4, 5, 6]}
    vectors.write([place_rows(view, [[1, 2, 3], [4, 5, 6]], lsn=2, deleted=True)])
    assert vectors.embedded(view, [(1).to_bytes(16)]) == {}


def test_a_replay_writes_nothing(vectors: PgVectors, database: Database) -> None:
    view = place_view("replay")
    vectors.create(view, MODEL)
    rows = place_rows(view, [[1, 2, 3], [4, 5, 6]])
    vectors.write([rows])
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        places = "select array_agg(ctid order by _entity_key) from features_places.replay"
        before = connection.execute(places).fetchone()
        assert vectors.write([rows]) == WriteResult(2, 0)
        assert connection.execute(places).fetchone() == before


def test_writers_side_by_side_leave_the_newest(vectors: PgVectors) -> None:
    """Live changes beside a backfill: the same new entities, in other orders."""
    view = place_view("racing")
    vectors.create(view, MODEL)
    whole = place_rows(view, [[1, i, 0] for i in range(40)]).table
    newest: dict[int, int] = {}

    def work(seed: int) -> list[tuple[int, int]]:
        random = np.random.default_rng(seed)
        written: list[tuple[int, int]] = []
        for _ in range(15):
            chosen = random.permutation(40)[:20]
            lsns = pa.array(random.integers(1, 1_000, 20))
            table = whole.take(pa.array(chosen))
            for name in ("_lsn", "altitude"):
                table = table.set_column(table.schema.get_field_index(name), name, lsns)
            vectors.write([FeatureRows(view, table)])
            written += zip(chosen.tolist(), lsns.to_pylist(), strict=True)
        return written

    with ThreadPoolExecutor(4) as pool:
        for written in pool.map(work, range(4)):
            for entity, lsn in written:
                newest[entity] = max(newest.get(entity, 0), lsn)
    (table,) = vectors.scan(view)
    assert {int(row["faa"][1:]): row["_lsn"] for row in table.to_pylist()} == newest
    assert table["altitude"].equals(table["_lsn"])


def test_deletes_are_forgotten_after_the_retention(vectors: PgVectors, database: Database) -> None:
    view = place_view("forgetting")
    vectors.create(view, MODEL)
    vectors.write([place_rows(view, [[1, 2, 3]])])
    vectors.write([place_rows(view, [[1, 2, 3]], lsn=2, deleted=True)])
    key = pa.table({"faa": ["a0"], "runway": pa.array([1], pa.int32())})
    other = place_rows(view, [[0, 0, 0], [1, 2, 3]])
    other = FeatureRows(view, other.table.slice(1))
    vectors.write([other])
    assert vectors.inspect(view, key)["_lsn"].to_pylist() == [2]
    forgetful = PgVectors(database.url, retention_seconds=0)
    forgetful.write([other])
    forgetful.close()
    assert vectors.inspect(view, key)["_lsn"].to_pylist() == [None]
    assert vectors.search(view, [1, 2, 3], 5)["faa"].to_pylist() == ["a1"]


def test_a_row_that_comes_back_as_its_delete_is_forgotten_is_kept(database: Database) -> None:
    view = place_view("coming_back")
    store = PgVectors(database.url, RETENTION)
    store.create(view, MODEL)
    store.write([place_rows(view, [[1, 0, 0], [0, 1, 0]])])
    store.write([place_rows(view, [[1, 0, 0], [0, 1, 0]], lsn=2, deleted=True)])
    store.close()
    forgetful = PgVectors(database.url, retention_seconds=0)
    assert forgetful.write([place_rows(view, [[0, 0, 1]], lsn=3)]) == WriteResult(1, 0)
    (table,) = forgetful.scan(view)
    assert table.select(["faa", "_present", "_lsn", "v"]).to_pylist() == [
        {"faa": "a0", "_present": True, "_lsn": 3, "v": [0.0, 0.0, 1.0]}
    ]
    forgetful.close()


def test_a_row_that_comes_back_while_another_worker_forgets_its_delete_is_kept(
    vectors: PgVectors, database: Database
) -> None:
    view = place_view("coming_back_beside")
    vectors.create(view, MODEL)
    vectors.write([place_rows(view, [[1, 0, 0]])])
    vectors.write([place_rows(view, [[1, 0, 0]], lsn=2, deleted=True)])
    with psycopg.connect(database.dsn) as other, ThreadPoolExecutor(1) as pool:
        other.execute("select from features_places.coming_back_beside for update")
        written = pool.submit(vectors.write, [place_rows(view, [[0, 1, 0]], lsn=3)])
        waiting = "select from pg_locks where pg_backend_pid() = any(pg_blocking_pids(pid))"
        while not written.done() and other.execute(waiting).fetchone() is None:
            time.sleep(0.01)
        other.execute("delete from features_places.coming_back_beside")
        other.commit()
        assert written.result() == WriteResult(1, 0)
    (table,) = vectors.scan(view)
    assert table.select(["_present", "_lsn"]).to_pylist() == [{"_present": True, "_lsn": 3}]


def test_plain_rows_never_replace_what_is_newer(vectors: PgVectors) -> None:
    view = place_view("plain_rows")
    vectors.create(view, MODEL)

    def plain(altitude: int, time: datetime) -> pa.Table:
        names = [*(f.name for f in (*view.join_keys, *view.features)), "event_timestamp", "_model"]
        table = place_rows(view, [[1, 0, 0]]).table.select(names)
        table = table.set_column(table.schema.get_field_index("altitude"), "altitude", pa.array([altitude]))
        return table.set_column(
            table.schema.get_field_index("event_timestamp"), "event_timestamp", pa.array([time], TIMESTAMP)
        )

    def altitude() -> int | None:
        (found,) = vectors.read([view], pa.table({"faa": ["a0"], "runway": pa.array([1], pa.int32())}))
        return found["altitude"].to_pylist()[0]

    hour = timedelta(hours=1)
    assert vectors.update_plain(view, plain(1, NOON)) == WriteResult(1, 0)
    assert vectors.update_plain(view, plain(2, NOON - hour)) == WriteResult(0, 1)
    assert vectors.update_plain(view, plain(3, NOON)) == WriteResult(1, 0)
    assert altitude() == 3
    vectors.write([place_rows(view, [[1, 0, 0]], lsn=5)])  # a change wins over what has no version
    assert altitude() == 0
    assert vectors.update_plain(view, plain(4, NOON)) == WriteResult(0, 1)
    assert vectors.update_plain(view, plain(5, NOON + hour)) == WriteResult(1, 0)
    assert altitude() == 5
    vectors.write([place_rows(view, [[1, 0, 0]], lsn=6, deleted=True)])
    assert vectors.update_plain(view, plain(6, NOON)) == WriteResult(0, 1)
    assert altitude() is None
    assert vectors.write([place_rows(view, [[1, 0, 0]], lsn=4)]) == WriteResult(0, 1)


@pytest.mark.parametrize(
    ("noon", "count"),
    [
        (NOON.isoformat(), 1),
        (NOON.replace(tzinfo=None).isoformat(), 1),
        (int(NOON.timestamp()), 1),
        (NOON, 1),
        (0, 0),
    ],
)
def test_a_moment_is_filtered_by_in_the_forms_of_requests_and_answers(
    vectors: PgVectors, database: Database, noon: Any, count: int
) -> None:
    """In UTC where it says no zone, whatever zone the server is set to."""
    view = place_view("moments")
    vectors.create(view, MODEL)
    vectors.write([place_rows(view, [[1.0, 0.0, 0.0]])])
    elsewhere = PgVectors(f"{database.url}?options=-c%20timezone%3DAmerica/New_York", RETENTION)
    for comparison in (
        ComparisonFilter(type="eq", key="opened", value=noon),
        ComparisonFilter(type="in", key="opened", value=[noon, None]),
    ):
        assert elsewhere.search(view, [1, 0, 0], 1, comparison).num_rows == count
    elsewhere.close()


@pytest.mark.parametrize("value", ["now", "infinity", True, 10**30, 17 * 10**17, "2013-13-01", [NOON.isoformat()]])
def test_what_is_no_moment_is_told_so(vectors: PgVectors, value: Any) -> None:
    view = place_view("moments")
    vectors.create(view, MODEL)
    with pytest.raises(ValueError, match=r"a value is not of its field's type \(opened\)"):
        vectors.search(view, [1, 0, 0], 1, ComparisonFilter(type="eq", key="opened", value=value))


def test_what_can_never_be_stored_is_refused_and_not_waited_for(vectors: PgVectors) -> None:
    """The limits that rows are held to before are PostgreSQL's own, to the byte and the microsecond."""
    view = place_view("limits")
    vectors.create(view, MODEL)
    row = place_rows(view, [[1, 2, 3]]).table
    around = int(entity_keys(view).lengths(row)[0]) - len("a0")
    longest = np.random.default_rng(1).integers(33, 127, ENTITY_KEY_BYTES - around, np.uint8).tobytes().decode()

    def written(name: str, value: pa.Array) -> WriteResult:
        place = row.schema.get_field_index(name)
        return vectors.write([FeatureRows(view, row.set_column(place, row.schema.field(place), value))])

    for name in ("event_timestamp", "opened"):
        assert written(name, pa.array([FIRST_MOMENT], TIMESTAMP)).applied == 1
        with pytest.raises(StoreRefused, match="timestamp out of range"):
            written(name, pa.array([FIRST_MOMENT - 1], TIMESTAMP))
    assert written("faa", pa.array([longest])).applied == 1
    with pytest.raises(StoreRefused, match="index row size 2712 exceeds btree version 4 maximum 2704"):
        written("faa", pa.array([longest + "x"]))
    with pytest.raises(StoreRefused, match="invalid byte sequence"):
        written("state", pa.array(["a\0"]))


def test_when_postgresql_is_away(database: Database) -> None:
    view = place_view("away")
    nowhere = PgVectors("postgresql://nobody:secret@127.0.0.1:1/nothing", RETENTION)
    for call in (nowhere.ping, lambda: nowhere.create(view, MODEL), lambda: nowhere.search(view, [1, 2, 3], 1)):
        with pytest.raises(StoreUnavailable, match=r"pgvector is unavailable: 127.0.0.1:1/nothing") as raised:
            call()
        assert "secret" not in str(raised.value)
    store = PgVectors(database.dsn, RETENTION)
    store.create(view, MODEL)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        assert store.write([place_rows(view, [[1, 2, 3]])]) == WriteResult(1, 0)
        connection.execute(f'alter database "{database.name}" set default_transaction_read_only = on')
        store.close()
        with pytest.raises(StoreUnavailable, match="read-only"):
            store.write([place_rows(view, [[1, 2, 3]], lsn=2)])
        connection.execute("set default_transaction_read_only = off")
        connection.execute(f'alter database "{database.name}" reset default_transaction_read_only')
        store.close()
        assert store.write([place_rows(view, [[1, 2, 3]], lsn=2)]) == WriteResult(1, 0)
    store.close()
