"""`get_historical_features` over the lake: Feast's request as point-in-time joins, one a feature view."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.data_source import DataSource
from feast.feature_view import FeatureView

from stores.asof import Join, asof
from stores.entity_keys import DUMMY, with_dummy
from stores.feast_lake import LakeSource
from stores.lake import Lake
from stores.rows import META, TIMESTAMP

EVENT_TIME = META[0].name


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of one feature view; `columns` names the features of `join` in the answer."""

    view: str
    join: Join
    columns: tuple[str, ...]


def request(view: FeatureView, features: Sequence[str], full_feature_names: bool) -> Request:
    """Feast's view, with its projection's alias and join key map, as a request.

    Raises `ValueError` for a version of the view other than the current one, and for a view whose rows are not
    in the lake.
    """
    projection, own = view.projection, f"features/{view.name}"
    if not _is_joined(view.batch_source, own):
        table = getattr(view.batch_source, "table", None)
        raise ValueError(
            f"view {view.name} has a {type(view.batch_source).__name__}{f' of {table}' if table else ''}: the lake"
            f" joins views of captured tables, and of a PushSource whose batch_source is a LakeSource with"
            f" table={own!r}"
        )
    if projection.version_tag is not None:
        raise ValueError(
            f"{projection.name_to_use()}: the lake holds the current version of a view, ask for {view.name}"
        )
    keys = {column.name: projection.join_key_map.get(column.name, column.name) for column in view.entity_columns}
    if not keys:  # Feast hides the join key of a view without entities
        keys = {DUMMY.name: DUMMY.name}
    prefix = f"{projection.name_to_use()}__" if full_feature_names else ""
    join = Join(own, keys, tuple(features), view.ttl)
    return Request(view.name, join, tuple(prefix + feature for feature in features))


def _is_joined(source: DataSource, own: str) -> bool:
    """Whether the rows of a view over the source stand in the view's `own` table."""
    return isinstance(source, LakeSource) and (source.table.startswith("changes/") or source.table == own)


def at_entities(lake: Lake, requests: Sequence[Request], entity_df: pd.DataFrame, time: str, known: bool) -> pa.Table:
    """The entity frame, its `time` column in UTC, and the features that its rows had at their times.

    Raises `ValueError` if a feature has the name of a column, `TableMissing`, `StoreUnavailable`.
    """
    moments = pd.to_datetime(entity_df[time], utc=True)
    frame = pa.Table.from_pandas(entity_df.assign(**{time: moments}), preserve_index=False)
    # A version that begins within the same microsecond as the entity's time, in nanoseconds, is seen.
    micros = pc.floor_temporal(frame.column(time), unit="microsecond").cast(TIMESTAMP)
    return _joined(lake, requests, frame, micros, known)


def at_end(lake: Lake, requests: Sequence[Request], start: datetime | None, end: datetime, known: bool) -> pa.Table:
    """All entities that have a value at `end`, of an event time not before `start`: `event_timestamp` (the
    end), their keys, and the features.

    Raises `ValueError` if the views have different keys, `TableMissing`, `StoreUnavailable`.
    """
    keys = {tuple(r.join.join_keys.values()) for r in requests}
    if len(keys) > 1:
        raise ValueError(f"the views {', '.join(r.view for r in requests)} have different join keys: give an entity_df")
    entities = _entities(lake, requests)
    ends = pa.chunked_array([pa.repeat(pa.scalar(end, TIMESTAMP), entities.num_rows)])
    frame = entities.add_column(0, EVENT_TIME, ends)
    timed = [replace(r, join=replace(r.join, features=(*r.join.features, EVENT_TIME))) for r in requests]
    marks = [f"_{EVENT_TIME}_{i}" for i in range(len(timed))]
    timed = [replace(r, columns=(*r.columns, mark)) for r, mark in zip(timed, marks, strict=True)]
    answer = _joined(lake, timed, frame, ends, known)
    has_value = [
        pc.is_valid(answer[m]) if start is None else pc.greater_equal(answer[m], pa.scalar(start, TIMESTAMP))
        for m in marks
    ]
    wanted = has_value[0]
    for mask in has_value[1:]:
        wanted = pc.or_kleene(wanted, mask)
    dummy = [name for name in answer.schema.names if name == DUMMY.name]
    return answer.filter(wanted).drop_columns([*marks, *dummy])


def _joined(lake: Lake, requests: Sequence[Request], frame: pa.Table, times: pa.ChunkedArray, known: bool) -> pa.Table:
    answer, entities = frame, with_dummy(frame)
    for asked in requests:
        for column in asked.columns:
            if column in answer.schema.names:
                raise ValueError(f"{column} is twice in the answer: ask with full_feature_names=True, or rename it")
        found = asof(lake, entities, times, asked.join, known=known)
        for column, values in zip(asked.columns, found.columns, strict=True):
            answer = answer.append_column(column, values)
    return answer


def _entities(lake: Lake, requests: Sequence[Request]) -> pa.Table:
    """The distinct keys, none of them null, of all the views' rows."""
    parts = [
        lake.scan(r.join.table, list(r.join.join_keys)).read_all().rename_columns(list(r.join.join_keys.values()))
        for r in requests
    ]
    rows = pa.concat_tables(parts, promote_options="permissive").drop_null()
    return rows.group_by(rows.schema.names).aggregate([])
