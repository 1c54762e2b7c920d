"""Text columns to vectors: what is embedded, what is spared, and that it always is the vector of the text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.table import Column, Table
from stores.rows import EMBEDDING, rows_schema
from stores.view import Feature, Kind, Vector, View
from streams.changes import Changes, changes_schema
from streams.embed import Embedded, Made, embed, hash_texts, join_texts
from streams.embedders import EmbedderUnavailable, TextRefused, WordLlamaEmbedder
from streams.messages import Records
from streams.pipeline import Accepted, Flow, Outcome, embedding
from streams.views import Projected, StreamView, Unprojectable, project

NOON = datetime(2013, 2, 12, 12, tzinfo=UTC)
FLOATS = pa.list_(pa.float32())
WORDLLAMA = WordLlamaEmbedder()


class Counting:
    """The packaged model, with a note of every text that it is given."""

    model, length = WORDLLAMA.model, WORDLLAMA.length

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return WORDLLAMA.embed(texts)


class Known:
    """Vectors by the hash of their text, in memory."""

    def __init__(self) -> None:
        self.vectors: dict[bytes, np.ndarray] = {}

    def embedded(self, view: View, hashes: Sequence[bytes]) -> Mapping[bytes, np.ndarray]:
        return {key: self.vectors[key] for key in hashes if key in self.vectors}

    def keep(self, table: pa.Table) -> None:
        for key, vector in zip(table["_text_hash"].to_pylist(), table["v"].to_pylist(), strict=True):
            if vector is not None:
                self.vectors[key] = np.array(vector, np.float32)


def column(name: str, arrow_type: pa.DataType, sql_type: str) -> Column:
    return Column(name, sql_type, arrow_type, "plain", nullable=True)


def table() -> Table:
    columns = (
        column("id", pa.int64(), "bigint"),
        column("owner", pa.int64(), "bigint"),
        column("title", pa.string(), "text"),
        column("pages", pa.int32(), "integer"),
    )
    return Table("shop", "public", "books", "shop.public.books", columns, ("id",))


def stream_view(kind: Kind = "state", columns: tuple[str, ...] = ("title", "pages"), length: int = 256) -> StreamView:
    key = Feature("id" if kind == "state" else "owner", 4, pa.int64())
    vector = Vector("v", length, "cosine", columns)
    features = (Feature("title", 2, pa.string()), Feature("v", 16, FLOATS))
    return StreamView(View("p", "books", "books", kind, (key,), features, vector=vector), table())


def changes(*rows: Mapping[str, Any], before: Sequence[Mapping[str, Any]] | None = None) -> Changes:
    schema = changes_schema(table())
    meta = {"_op": "c", "_commit_ts": NOON, "_partition": 0}
    full = [{"id": i, "owner": i, **meta, "_lsn": i + 1, "_offset": i, **row} for i, row in enumerate(rows)]
    carried = pa.schema([field for field in schema if not field.name.startswith("_")])
    old = None if before is None else pa.Table.from_pylist(list(before), carried)
    return Changes(table(), pa.Table.from_pylist(full, schema), old)


def run(
    view: StreamView, some: Changes, embedder: Any = WORDLLAMA, known: Known | None = None
) -> tuple[pa.Table, int, int]:
    done = embed(project(view, some), some, embedder, known or Known(), Made())
    return done.projected.rows.table, done.embedded, done.spared


def vectors(rows: pa.Table) -> list[list[float] | None]:
    return rows["v"].to_pylist()


def test_the_columns_that_come_out() -> None:
    rows, embedded, spared = run(stream_view(), changes({"title": "Emma", "pages": 474}, {"title": "Ulysses"}))
    assert rows.schema.equals(pa.schema([*rows_schema(stream_view().view), *EMBEDDING]))
    expected = WORDLLAMA.embed(["Emma\n474", "Ulysses\n"])
    assert vectors(rows) == expected.tolist()
    assert rows["_text_hash"].to_pylist() == hash_texts(["Emma\n474", "Ulysses\n"], WORDLLAMA)
    assert rows["_model"].to_pylist() == [WORDLLAMA.model] * 2
    assert (embedded, spared) == (2, 0)


def test_columns_are_joined_by_a_newline_and_nulls_are_empty() -> None:
    rows = pa.table({"a": ["x", None, None], "b": pa.array([1, 2, None], pa.int32()), "c": ["z", "z", None]})
    assert join_texts(rows, Vector("v", 3, "l2", ("c", "a", "b"))).to_pylist() == ["z\nx\n1", "z\n\n2", "\n\n"]


def test_what_has_no_text_has_no_vector() -> None:
    rows, embedded, spared = run(
        stream_view(columns=("title",)),
        changes({"title": None}, {"title": ""}, {"title": " \n\t"}, {"title": "gone", "_op": "d"}, {"title": "Emma"}),
    )
    assert [vector is None for vector in vectors(rows)] == [True, True, True, True, False]
    for name in ("_text_hash", "_model"):
        assert rows[name].is_valid().to_pylist() == [False, False, False, False, True]
    assert (embedded, spared) == (1, 0)


def test_no_text_at_all_needs_no_model() -> None:
    counting = Counting()
    rows, embedded, _ = run(stream_view(), changes({"title": "Emma", "_op": "d"}), counting)
    assert (vectors(rows), embedded, counting.texts) == ([None], 0, [])
    rows, _, _ = run(stream_view(), changes().take(np.array([], np.int64)), counting)
    assert rows.num_rows == 0


def test_the_entity_that_a_row_left_gets_none_of_its_text() -> None:
    some = changes(
        {"title": "Emma", "owner": 2, "_op": "u"}, before=[{"id": 0, "owner": 1, "title": "Emma", "pages": None}]
    )
    rows, _, _ = run(stream_view("event", ("title",)), some)
    assert rows["owner"].to_pylist() == [1, 2]
    assert [vector is None for vector in vectors(rows)] == [True, False]


def test_unchanged_texts_are_not_embedded_again() -> None:
    counting, known, view = Counting(), Known(), stream_view(columns=("title",))
    first, embedded, spared = run(view, changes({"title": "Emma"}, {"title": "Ulysses"}), counting, known)
    assert (embedded, spared, counting.texts) == (2, 0, ["Emma", "Ulysses"])
    known.keep(first)
    second, embedded, spared = run(
        view, changes({"title": "Emma", "pages": 5}, {"title": "Dubliners"}, {"title": "Ulysses"}), counting, known
    )
    assert (embedded, spared, counting.texts) == (1, 2, ["Emma", "Ulysses", "Dubliners"])
    assert vectors(second) == WORDLLAMA.embed(["Emma", "Dubliners", "Ulysses"]).tolist()


def test_a_text_that_the_batch_repeats_is_embedded_once() -> None:
    counting = Counting()
    rows, embedded, spared = run(stream_view(columns=("title",)), changes(*[{"title": "Emma"}] * 5), counting)
    assert (embedded, spared, counting.texts) == (1, 4, ["Emma"])
    assert vectors(rows) == WORDLLAMA.embed(["Emma"] * 5).tolist()


def test_another_model_knows_none_of_the_texts() -> None:
    class Other(Counting):
        model = "another model"

    class Longer(Counting):
        length = 512

    assert len({tuple(hash_texts(["Emma"], e)) for e in (WORDLLAMA, Other(), Longer())}) == 3
    known, view = Known(), stream_view(columns=("title",))
    known.keep(run(view, changes({"title": "Emma"}), Counting(), known)[0])
    rows, embedded, _ = run(view, changes({"title": "Emma"}), Other(), known)
    assert (embedded, rows["_model"].to_pylist()) == (1, ["another model"])


def test_when_the_model_is_unavailable_the_batch_waits() -> None:
    class Down(Counting):
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            raise EmbedderUnavailable("down")

    with pytest.raises(EmbedderUnavailable):
        run(stream_view(), changes({"title": "Emma"}), Down())


def test_texts_that_the_model_refuses_are_told_by_their_change() -> None:
    class Short(Counting):
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            for position, text in enumerate(texts):
                if len(text) > 5:
                    raise TextRefused(position, "at most 5 characters")
            return super().embed(texts)

    some = changes(
        {"title": "Emma"}, {"title": "Ulysses"}, {"title": None}, {"title": "Dubliners"}, {"title": "Ulysses"}
    )
    with pytest.raises(Unprojectable) as raised:
        run(stream_view(columns=("title",)), some, Short())
    assert sorted(raised.value.bad) == [1, 3, 4]
    assert raised.value.bad[1] == ["view books: its text cannot be embedded: at most 5 characters"]


class Picky(Counting):
    """Refuses what says so, one text a call, and gives the vectors that it has made by then: as a server does."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        for position, text in enumerate(texts):
            if "refused" in text:
                self.texts += texts[: position + 1]
                raise TextRefused(position, "it says so", WORDLLAMA.embed(texts[:position]))
        return super().embed(texts)


@settings(max_examples=60)
@given(refused=st.lists(st.booleans(), max_size=40))
def test_a_refused_text_costs_its_neighbours_no_second_embedding(refused: list[bool]) -> None:
    titles = [f"refused {i}" if no else f"title {i}" for i, no in enumerate(refused)]
    some, picky = changes(*({"title": title} for title in titles)), Picky()
    projected = project(stream_view(columns=("title",)), some)
    if not any(refused):
        embed(projected, some, picky, Known(), Made())
    else:
        with pytest.raises(Unprojectable) as raised:
            embed(projected, some, picky, Known(), Made())
        assert sorted(raised.value.bad) == [i for i, no in enumerate(refused) if no]
    sent = [text for text in picky.texts if "refused" not in text]
    assert len(sent) == len(set(sent))


def test_the_pass_without_the_refused_texts_embeds_nothing_again() -> None:
    titles = [f"refused {i}" if i % 10 == 3 else f"title {i}" for i in range(40)]
    some, picky, known, counted = changes(*({"title": title} for title in titles)), Picky(), Known(), list[Embedded]()
    views = (stream_view(columns=("title",)), stream_view(columns=("title",)))
    kept = np.arange(len(some))
    accepted = Accepted(some, tuple((v, project(v, some)) for v in views), kept, {}, Counter(), np.zeros(40, bool))
    flow = Flow(table(), None, views)  # type: ignore[arg-type]  # no contract is asked here
    outcome = embedding(picky, known, counted.append)(
        Outcome(Records("t", [], [], [], []), flow, accepted, [], 0), Made()
    )
    assert [rejection.position for rejection in outcome.rejections] == [3, 13, 23, 33]
    good = [title for title in titles if "refused" not in title]
    assert [text for text in picky.texts if "refused" not in text] == good
    for rows in outcome.rows():
        assert vectors(rows.table) == WORDLLAMA.embed(good).tolist()
    assert [filled.embedded for filled in counted] == [36, 36]


def test_a_view_that_declares_another_length() -> None:
    with pytest.raises(ValueError, match=r"books declares vectors of length 300, and wordllama.* gives 256"):
        run(stream_view(length=300), changes({"title": "Emma"}))


STORABLE = st.characters(codec="utf-8", exclude_characters="\0")
TITLES = st.one_of(st.none(), st.sampled_from(["Emma", "Ulysses", "", " ", "Ä 😀"]), st.text(STORABLE, max_size=20))


@settings(max_examples=60)
@given(batches=st.lists(st.lists(st.tuples(TITLES, st.sampled_from("cud")), max_size=8), min_size=1, max_size=5))
def test_it_is_as_if_everything_were_embedded(batches: list[list[tuple[str | None, str]]]) -> None:
    counting, known, view = Counting(), Known(), stream_view(columns=("title",))
    for batch in batches:
        some = changes(*({"title": title, "_op": op} for title, op in batch))
        rows, embedded, spared = run(view, some, counting, known)
        texts = [None if op == "d" or not (title or "").strip() else title for title, op in batch]
        expected = [None if text is None else WORDLLAMA.embed([text])[0].tolist() for text in texts]
        assert vectors(rows) == expected
        assert embedded + spared == len(texts) - texts.count(None)
        known.keep(rows)
    assert len(counting.texts) == len(set(counting.texts))


def test_rows_keep_their_place() -> None:
    """A view that drops rows: the text is that of the row's own change."""
    some = changes({"title": "Emma", "owner": None}, {"title": "Ulysses"})
    projected: Projected = project(stream_view("event", ("title",)), some)
    assert projected.positions.tolist() == [1]
    done = embed(projected, some, WORDLLAMA, Known(), Made())
    assert vectors(done.projected.rows.table) == WORDLLAMA.embed(["Ulysses"]).tolist()
    assert done.projected.positions.tolist() == [1]
