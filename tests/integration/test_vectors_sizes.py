"""What is read of the vector store at once is bounded by its bytes, before PostgreSQL sends any of them."""

from collections.abc import Iterator

import pyarrow as pa
import pytest
import sqlalchemy as sa
from feast.filter_models import ComparisonFilter

from stores.errors import TooMuch
from stores.vectors import PgVectors
from stores.view import Feature, Vector, View
from tests.integration.database import Database
from tests.integration.places import FLOATS, MODEL, NOON, RETENTION
from tests.tcp_proxy import TcpProxy

MOST = 100_000
"""Bytes of texts and lists that are read at once."""
LONG = 20_000
"""Of a text: five fit. PostgreSQL compresses it to some hundred bytes."""
VIEW = View(
    "sizes",
    "pages",
    "pages",
    "state",
    (Feature("page", 4, pa.int64()),),
    (
        Feature("text", 2, pa.string()),
        Feature("names", 12, pa.list_(pa.string())),
        Feature("number", 4, pa.int64()),
        Feature("v", 16, FLOATS),
    ),
    vector=Vector("v", 3, "l2", ("text",)),
)


@pytest.fixture(scope="module")
def written(database: Database) -> None:
    """Eight pages, the nearest to 0 first, with a long text and a list of as many bytes."""
    store = PgVectors(database.url, RETENTION)
    store.create(VIEW, MODEL)
    count = 8
    rows = {
        "page": range(count),
        "text": ["a" * LONG] * count,
        "names": [["b" * 100] * (LONG // 100)] * count,
        "number": range(count),
        "v": [[float(n), 0.0, 0.0] for n in range(count)],
        "event_timestamp": [NOON] * count,
        "_model": [MODEL] * count,
    }
    types = {feature.name: feature.arrow_type for feature in (*VIEW.join_keys, *VIEW.features)}
    store.update_plain(VIEW, pa.table({name: pa.array(column, types.get(name)) for name, column in rows.items()}))
    store.close()


@pytest.fixture
def proxy(database: Database) -> Iterator[TcpProxy]:
    """PostgreSQL, with what it replies counted."""
    proxy = TcpProxy(sa.make_url(database.url).port or 5432).start()
    yield proxy
    proxy.stop()


@pytest.fixture
def bounded(written: None, database: Database, proxy: TcpProxy) -> Iterator[PgVectors]:
    url = sa.make_url(database.url).set(host="127.0.0.1", port=proxy.port)
    store = PgVectors(url.render_as_string(hide_password=False), RETENTION, most_bytes=MOST)
    yield store
    store.close()


@pytest.mark.parametrize("feature", ["text", "names"])
def test_a_search_for_more_is_refused_and_none_of_it_sent(bounded: PgVectors, proxy: TcpProxy, feature: str) -> None:
    fit = 4
    found = bounded.search(VIEW, [0, 0, 0], fit, features=[feature, "number"])
    assert found["number"].to_pylist() == list(range(fit)) and found["distance"].to_pylist() == [0.0, 1.0, 2.0, 3.0]
    assert found["event_timestamp"].to_pylist() == [NOON] * fit
    assert {len(str(value)) >= LONG for value in found[feature].to_pylist()} == {True}
    sent = proxy.replied
    assert sent > fit * LONG
    with pytest.raises(TooMuch, match=f"pages: .* more than {MOST} bytes"):
        bounded.search(VIEW, [0, 0, 0], 6, features=[feature, "number"])
    assert proxy.replied - sent < LONG


def test_one_that_its_filter_makes_look_at_all_rows_is_too(bounded: PgVectors) -> None:
    rare = ComparisonFilter(type="gte", key="number", value=2)
    assert bounded.search(VIEW, [0, 0, 0], 10, rare, features=["number"])["number"].to_pylist() == [2, 3, 4, 5, 6, 7]
    with pytest.raises(TooMuch):
        bounded.search(VIEW, [0, 0, 0], 10, rare, features=["text"])


def test_numbers_and_vectors_are_not_weighed(written: None, database: Database) -> None:
    store = PgVectors(database.url, RETENTION, most_bytes=1)
    found = store.search(VIEW, [0, 0, 0], 10, features=["number", "v"])
    assert found["v"].to_pylist() == [[float(n), 0.0, 0.0] for n in range(8)]
    store.close()


def test_a_read_of_more_is_refused_and_none_of_it_sent(bounded: PgVectors, proxy: TcpProxy) -> None:
    (found,) = bounded.read([VIEW], pa.table({"page": pa.array([1, 9, 0], pa.int64())}))
    assert found["number"].to_pylist() == [1, None, 0]
    assert [value and len(value) for value in found["text"].to_pylist()] == [LONG, None, LONG]
    sent = proxy.replied
    assert sent > 2 * LONG
    with pytest.raises(TooMuch):
        bounded.read([VIEW], pa.table({"page": pa.array(range(8), pa.int64())}))
    assert proxy.replied - sent < LONG


def test_a_row_that_is_asked_for_again_and_again_counts_each_time(bounded: PgVectors) -> None:
    (found,) = bounded.read([VIEW], pa.table({"page": pa.array([1, 1], pa.int64())}))
    assert found["number"].to_pylist() == [1, 1]
    with pytest.raises(TooMuch, match=r"pages: .* of 8 entities take \d+ bytes"):
        bounded.read([VIEW], pa.table({"page": pa.array([1] * 8, pa.int64())}))


def test_without_a_bound_all_is_read(written: None, database: Database) -> None:
    store = PgVectors(database.url, RETENTION)
    assert store.search(VIEW, [0, 0, 0], 8, features=["text", "names"]).num_rows == 8
    store.close()
