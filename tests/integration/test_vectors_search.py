"""Nearest neighbours and filters on a real PostgreSQL with pgvector."""

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from feast.filter_models import ComparisonFilter, CompoundFilter

from serving.search import search
from stores.errors import NotSetUp
from stores.rows import FeatureRows
from stores.vector_search import with_settings
from stores.vectors import PgVectors
from stores.view import Feature, Metric
from streams.embedders import WordLlamaEmbedder
from tests.integration.database import Database
from tests.integration.places import MODEL, NOON, RETENTION, place_rows, place_view
from tests.waiting import waited

SEALS = Feature("seals", 11, pa.list_(pa.binary()))
SCANS = "select idx_scan from pg_stat_user_indexes where indexrelname = %s"


@pytest.fixture(scope="module")
def vectors(database: Database) -> Iterator[PgVectors]:
    store = PgVectors(database.url, RETENTION)
    yield store
    store.close()


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
def test_search_finds_the_true_neighbours(vectors: PgVectors, metric: Metric) -> None:
    view = place_view(f"near_{metric}", metric, 8)
    vectors.create(view, MODEL)
    stored = np.random.default_rng(1).normal(size=(400, 8)).astype(np.float32)
    vectors.write([place_rows(view, stored)])
    query = np.random.default_rng(2).normal(size=8).astype(np.float32)
    distances = {
        "cosine": 1 - stored @ query / np.linalg.norm(stored, axis=1) / np.linalg.norm(query),
        "l2": np.linalg.norm(stored - query, axis=1),
        "inner_product": -(stored @ query),
    }[metric]
    found = vectors.search(view, query, 10)
    nearest = np.argsort(distances)[:10]
    assert found["faa"].to_pylist() == [f"a{i}" for i in nearest]
    assert found["distance"].to_pylist() == pytest.approx(distances[nearest].tolist(), rel=1e-4)
    assert found.column_names == ["faa", "runway", "state", "altitude", "opened", "event_timestamp", "distance"]
    assert vectors.search(view, query, 1, features=["v"])["v"].to_pylist()[0] == stored[nearest[0]].tolist()


def test_a_search_goes_by_its_own_settings_and_leaves_none(database: Database) -> None:
    shown = sa.func.current_setting("hnsw.ef_search")
    settings = {"hnsw.ef_search": sa.literal("123")}
    rows = sa.select(shown).select_from(sa.func.generate_series(1, 3).alias()).where(with_settings(settings))
    engine = sa.create_engine(database.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        assert connection.execute(rows).scalars().all() == ["123"] * 3
        assert connection.execute(sa.select(shown)).scalar() != "123"
    engine.dispose()


def test_recall_of_the_index(vectors: PgVectors, database: Database) -> None:
    """Random vectors are the hardest case: no structure guides the index."""
    view = place_view("recall", length=32)
    vectors.create(view, MODEL)
    stored = np.random.default_rng(1).normal(size=(5_000, 32)).astype(np.float32)
    vectors.write([place_rows(view, stored)])
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    with psycopg.connect(database.dsn) as connection:
        connection.execute("analyze features_places.recall")
    found = 0
    for query in np.random.default_rng(2).normal(size=(40, 32)).astype(np.float32):
        nearest = {f"a{i}" for i in np.argsort(-(unit @ query))[:10]}
        found += len(nearest & set(vectors.search(view, query, 10)["faa"].to_pylist()))
    assert found >= 0.95 * 400

    # A filter that a handful pass, far from the query: still all of them, in order.
    query = stored[0]
    rare = ComparisonFilter(type="in", key="altitude", value=[7, 4_321, 1_234])
    expected = sorted([7, 4_321, 1_234], key=lambda i: -float(unit[i] @ query))
    assert vectors.search(view, query, 10, rare)["altitude"].to_pylist() == expected


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
def test_long_vectors_are_found_by_their_index_and_told_apart_by_their_whole_numbers(
    vectors: PgVectors, database: Database, metric: Metric
) -> None:
    """Half precision knows the first five as one vector."""
    view = place_view(f"long_{metric}", metric, 3072)
    vectors.create(view, MODEL)
    stored = np.zeros((300, 3072), np.float32)
    stored[:, 0], stored[:, 1] = 1, 0.25 + 0.01 * np.arange(300)
    # An inner product is no distance: from most vectors the links lead to long ones alone.
    least, nearest = (4.0, [0, 2, 1, 4, 3]) if metric == "inner_product" else (0.25, [3, 4, 1, 2, 0])
    stored[:5, 1] = least + 1e-5 * np.array([4, 2, 3, 0, 1])
    vectors.write([place_rows(view, stored)])
    vectors.create(view, MODEL)  # again, which finds the index as it should be
    query = np.zeros(3072)
    query[:2] = 1, 1 if metric == "inner_product" else -1
    # Without the option so few rows are read one by one.
    searching = PgVectors(f"{database.url}?options=-c enable_seqscan%3Doff", RETENTION)
    found = searching.search(view, query, 5)
    searching.close()  # a server process tells what it counted as it ends
    assert found["altitude"].to_pylist() == nearest
    assert found["distance"].to_pylist() == sorted(set(found["distance"].to_pylist()))
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        name = f"long_{metric}_{metric}"
        waited(lambda: connection.execute(SCANS, [name]).fetchone() == (1,), "a look into the index")


def test_filters(vectors: PgVectors) -> None:
    view = place_view("filters")
    vectors.create(view, MODEL)
    states = [None if i == 3 else f"s{i % 2}" for i in range(8)]
    vectors.write([place_rows(view, [[1, i, 0] for i in range(8)], states=states)])

    def passing(kind: str, key: str, value: Any) -> set[int]:
        found = vectors.search(view, [1, 0, 0], 8, ComparisonFilter(type=kind, key=key, value=value))
        return set(found["altitude"].to_pylist())

    assert passing("eq", "state", "s0") == {0, 2, 4, 6}
    assert passing("ne", "state", "s0") == {1, 5, 7}
    assert passing("eq", "state", None) == {3}
    assert passing("gt", "altitude", 5) == {6, 7}
    assert passing("gte", "altitude", 5.5) == {6, 7}
    assert passing("lt", "opened", NOON + timedelta(days=2)) == {0, 1}
    assert passing("lte", "altitude", 1) == {0, 1}
    assert passing("in", "faa", ["a1", "a2", "nowhere"]) == {1, 2}
    assert passing("nin", "altitude", [0, 1, 2, 3, 4, 5]) == {6, 7}
    assert passing("eq", "runway", 2) == set()
    low = ComparisonFilter(type="lt", key="altitude", value=4)
    even = ComparisonFilter(type="eq", key="state", value="s0")
    both = CompoundFilter(type="and", filters=[low, even])
    either = CompoundFilter(type="or", filters=[both, ComparisonFilter(type="eq", key="faa", value="a7")])
    assert set(vectors.search(view, [1, 0, 0], 8, either)["altitude"].to_pylist()) == {0, 2, 7}
    assert vectors.search(view, [1, 0, 0], 3, CompoundFilter(type="and", filters=[])).num_rows == 3
    with pytest.raises(ValueError, match="no field nothing to filter on; it has faa, runway, state"):
        passing("eq", "nothing", 1)
    with pytest.raises(ValueError, match="needs a list"):
        passing("in", "state", "s0")


def test_bytes_are_compared_in_the_form_of_answers(vectors: PgVectors) -> None:
    plain = place_view("bytes")
    view = replace(plain, features=(*plain.features, Feature("seal", 1, pa.binary()), SEALS))
    vectors.create(view, MODEL)
    table = place_rows(plain, [[1, 0, 0], [0, 1, 0], [1, 1, 0]]).table
    seals = [b"\xff\x00", b"abc", None]
    table = table.append_column("seal", pa.array(seals, pa.binary()))
    table = table.append_column("seals", pa.array([[seal] for seal in seals], SEALS.arrow_type))
    vectors.write([FeatureRows(view, table)])

    def passing(kind: str, value: Any, key: str = "seal") -> set[int]:
        found = vectors.search(view, [1, 0, 0], 3, ComparisonFilter(type=kind, key=key, value=value))
        return set(found["altitude"].to_pylist())

    assert passing("eq", b64encode(b"\xff\x00").decode()) == {0}
    assert passing("in", [b64encode(b"abc").decode(), "AA=="]) == {1}
    assert passing("eq", None) == {2}
    assert passing("eq", ["YWJj"], "seals") == {1}
    assert passing("in", [["YWJj"], ["/wA="]], "seals") == {0, 1}
    for kind, value in (
        ("eq", "no base64"),
        ("eq", 5),
        ("eq", [1]),
        ("eq", ["YWJj"]),
        ("gt", True),
        ("in", ["YWJj", 5]),
    ):
        with pytest.raises(ValueError, match=r"a value is not of its field's type \(seal\)"):
            passing(kind, value)


def test_a_filter_hides_no_missing_table(vectors: PgVectors) -> None:
    nowhere = place_view("never_applied")
    with pytest.raises(NotSetUp, match="run `millrace apply`"):
        vectors.search(nowhere, [1, 0, 0], 1, ComparisonFilter(type="eq", key="state", value="s0"))


@pytest.mark.parametrize(("key", "value"), [("state", 5), ("altitude", "high"), ("opened", True), ("altitude", 2**70)])
def test_a_filters_value_is_of_its_fields_type(vectors: PgVectors, key: str, value: Any) -> None:
    view = place_view("misfits")
    vectors.create(view, MODEL)
    vectors.write([place_rows(view, [[1, 0, 0]])])
    with pytest.raises(ValueError, match=rf"a value is not of its field's type \({key}\)"):
        vectors.search(view, [1, 0, 0], 1, ComparisonFilter(type="gt", key=key, value=value))


@pytest.mark.parametrize("name", ["asked", "top_k", "candidates", "most", "param", "100%", "(a) b's", "%(asked)s"])
@pytest.mark.parametrize("most_bytes", [0, 1_000])
def test_a_field_may_be_called_anything(database: Database, name: str, most_bytes: int) -> None:
    """As the parameters of a search, or as what has a meaning in its statement."""
    plain = place_view(f"called_{name.encode().hex()}_{most_bytes}")
    view = replace(plain, features=tuple(replace(f, name=name) if f.name == "altitude" else f for f in plain.features))
    rows = place_rows(plain, [[1, 0, 0], [0, 1, 0], [1, 1, 0]]).table
    store = PgVectors(database.url, RETENTION, most_bytes=most_bytes)
    store.create(view, MODEL)
    store.write([FeatureRows(view, rows.rename_columns([name if n == "altitude" else n for n in rows.column_names]))])
    found = store.search(view, [1, 0, 0], 1, ComparisonFilter(type="in", key=name, value=[1, 2]))
    store.close()
    assert found[name].to_pylist() == [2]
    assert found["state"].to_pylist() == ["s2"]


def test_what_a_query_vector_must_be(vectors: PgVectors) -> None:
    view = place_view("query")
    vectors.create(view, MODEL)
    wrongs: tuple[list[Any], ...] = ([1.0, 2.0], [1.0, 2.0, float("nan")], [[1.0, 2.0, 3.0]])
    for wrong in wrongs:
        with pytest.raises(ValueError, match="3 finite numbers"):
            vectors.search(view, wrong, 1)
    with pytest.raises(ValueError, match="no feature sate; it has state"):
        vectors.search(view, [1, 2, 3], 1, features=["sate"])


def test_a_zero_vector_is_never_near(vectors: PgVectors) -> None:
    view = place_view("zero")
    vectors.create(view, MODEL)
    vectors.write([place_rows(view, [[0, 0, 0], [1, 0, 0], None])])
    assert vectors.search(view, [1, 0, 0], 3)["faa"].to_pylist() == ["a1"]


def test_search_by_text(vectors: PgVectors) -> None:
    embedder = WordLlamaEmbedder()
    view = place_view("texts", length=embedder.length)
    texts = ["a harbour for sailing boats", "a runway for large aeroplanes", "a school for small children"]
    vectors.create(view, embedder.model)
    vectors.write([place_rows(view, embedder.embed(texts), model=embedder.model, states=texts)])
    found = search(vectors, embedder, view, "aircraft landing at the airport", 2)
    assert found["state"].to_pylist()[0] == texts[1]
    filtered = search(vectors, embedder, view, "aircraft", 2, ComparisonFilter(type="ne", key="state", value=texts[1]))
    assert set(filtered["state"].to_pylist()) == {texts[0], texts[2]}
    with pytest.raises(ValueError, match="means nothing"):
        search(vectors, embedder, view, "", 2)
    other = place_view("other_texts")
    vectors.create(other, MODEL)
    with pytest.raises(ValueError, match="holds vectors of a-model, and"):
        search(vectors, embedder, other, "aircraft", 2)
