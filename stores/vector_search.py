"""A search of a view's vectors as psycopg takes it.

The statement is put together once for what it answers with. To let SQLAlchemy put each search together, and send it,
took more of the processor than all else that a search takes outside PostgreSQL (docs/benchmarks.md). What a search is
filtered by differs from one to the next and is compiled by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import sqlalchemy as sa

from stores.vector_filters import Filters, conditions
from stores.vector_rows import packed_vector
from stores.vector_sizes import DISTANCE, as_sent
from stores.vector_tables import DIALECT, OPERATORS, VectorTable, vector_table
from stores.view import View

# Candidates of a search: of 100,000 vectors they hold 96 of 100 true neighbours, and with a filter 95 of 100 where a
# tenth passes it, for the nearest that pass lie further out (benchmarks/search.py).
EF_SEARCH, EF_SEARCH_FILTERED = 90, 150
EF_SEARCH_LIMIT = 1000

_FILTER = "/* the filter */"


@dataclass(frozen=True, slots=True)
class Search:
    """`by_index` goes on until enough has passed the filter, or the index gives up (`hnsw.max_scan_tuples`);
    `by_rows` is the same over all rows, for a transaction that has turned index scans off. `given` are the parameters
    of both. Of a search that is `bounded` the rows are for `stores.vector_sizes.within`."""

    by_index: str
    by_rows: str
    bounded: bool
    given: Mapping[str, Any]


def nearest(
    view: View, names: Sequence[str], vector: np.ndarray, top_k: int, filters: Filters | None, most_bytes: int
) -> Search:
    """A search for the columns `names` of the `top_k` rows nearest to a vector (float32), and their distance. Of texts
    and lists at most `most_bytes` are read; 0 is no bound. Raises `ValueError` as `conditions`."""
    vectors = vector_table(view)
    where, compared = _condition(vectors, filters)
    candidates = max(EF_SEARCH_FILTERED if filters else EF_SEARCH, 2 * top_k)
    given = compared | {
        "asked": packed_vector(vector),
        "top_k": top_k,
        "candidates": str(min(candidates, EF_SEARCH_LIMIT)),
        "most": most_bytes,
    }
    by_index, by_rows, is_bounded = _statements(view, tuple(names), most_bytes > 0)
    return Search(by_index.replace(_FILTER, where), by_rows.replace(_FILTER, where), is_bounded, given)


def with_settings(settings: Mapping[str, sa.ColumnElement[str]]) -> sa.ColumnElement[bool]:
    """Always true, and sets these for the rest of the transaction. As a condition of a statement that is none of its
    rows it comes before the statement reads any, and spares a BEGIN, a SET LOCAL and a COMMIT their round trips."""
    each = (sa.func.set_config(sa.literal_column(f"'{name}'"), value, sa.true()) for name, value in settings.items())
    return sa.select(sa.func.concat(*each)).scalar_subquery().is_not(None)


def _condition(vectors: VectorTable, filters: Filters | None) -> tuple[str, dict[str, Any]]:
    """The filters, and the values in them by the names of their parameters, which all end in a number."""
    parts = conditions(vectors, filters)
    if not parts:
        return "true", {}
    compiled = sa.and_(*parts).compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
    return str(compiled), dict(compiled.params)


@lru_cache(maxsize=512)
def _statements(view: View, names: tuple[str, ...], with_bound: bool) -> tuple[str, str, bool]:
    """The statements of a `Search` before they are filtered, and whether they are bounded. All that differs between
    two searches is a parameter."""
    vectors = vector_table(view)
    assert view.vector is not None
    operator = OPERATORS[view.vector.metric][0]
    asked = sa.cast(sa.bindparam("asked"), vectors.vector.type)
    distance = vectors.vector.op(operator, return_type=sa.Float())(asked)
    query = (
        sa.select(*(vectors.table.c[name] for name in names), distance.label(DISTANCE))
        .where(vectors.vector.is_not(None), sa.literal_column(f"({_FILTER})", sa.Boolean))
        .order_by(vectors.indexed(vectors.vector).op(operator)(vectors.indexed(asked)))
        .limit(sa.bindparam("top_k", type_=sa.Integer()))
    )
    candidates = sa.bindparam("candidates", type_=sa.Text())
    strict = sa.literal_column("'strict_order'", sa.Text)
    scan = with_settings({"hnsw.ef_search": candidates, "hnsw.iterative_scan": strict})
    by_index, is_bounded = as_sent(vectors, query.where(scan), with_bound)
    by_rows, _ = as_sent(vectors, query, with_bound)
    return by_index, by_rows, is_bounded
