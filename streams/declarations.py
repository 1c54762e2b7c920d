"""Feast's objects, read once into what the streams run on: which topics, which views, which columns.

Everything here comes from plain Feast objects: a view's stream source is a `KafkaSource` whose topic is
`<source>.<schema>.<table>`; renames are its `field_mapping`; what Feast has no word for is a tag.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.types as pt
from feast import Entity, FeatureView, Field, KafkaSource, StreamFeatureView, ValueType
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.types import from_value_type

from connectors.source import EXCLUDED
from connectors.table import Column, Table
from stores.entity_keys import UNIX_TIMESTAMP, check_key_type
from stores.feast_lake import LakeSource
from stores.personal import personal_fields
from stores.values import arrow_type_of, has_column
from stores.view import METRICS, Feature, Kind, Vector, View
from streams.changes import META, carried
from streams.personal import PersonalColumns
from streams.transform import Mode, Transform, transform
from streams.views import StreamView, castable

EMBEDS_TAG = "embeds"
"""On a vector field: the text columns that it embeds, separated by commas."""

TABLE_TAG = "table"
"""On a source: the table as `<schema>.<table>`, where the topic cannot spell its name."""

COMMIT_TIME = "_commit_ts"
RESERVED = frozenset({"event_timestamp", "created_timestamp"})

_WHOLE_SECONDS = re.compile(r"timestamp\(0\) with(out)? time zone")


class DeclarationError(Exception):
    """A mistake in a feature repo: which object, what is wrong, what to write instead."""

    def __init__(self, where: str, problem: str, instead: str) -> None:
        super().__init__(f"{where}: {problem}; {instead}")
        self.where, self.problem, self.instead = where, problem, instead


@dataclass(frozen=True, slots=True)
class Declared:
    """One feature view over a captured table, before the table's columns are known."""

    view: FeatureView
    topic: str
    join_keys: tuple[Field, ...]

    @property
    def source(self) -> KafkaSource:
        """The view's stream source."""
        return self.view.stream_source

    @property
    def table(self) -> str:
        """The captured table, as `<schema>.<table>`."""
        return str(self.source.tags.get(TABLE_TAG) or self.topic.split(".", 1)[1])


def source_of(topic: str) -> str:
    """The name of the source whose table a topic carries."""
    return topic.split(".", 1)[0]


def captured_views(
    views: Iterable[FeatureView], entities: Sequence[Entity], sources: Collection[str]
) -> list[Declared]:
    """The views that are fed by captured tables; views with other sources are Feast's own business.

    A table's source is known by its batch source, as `cdc_source` makes it: the table's changes in the lake. `sources`
    are the names in `millrace.yaml`: on a topic of theirs another source is a mistake. Raises `DeclarationError`.
    """
    by_name = {entity.name: entity for entity in entities}
    declared = []
    for view in views:
        source = view.stream_source
        if not isinstance(source, KafkaSource):
            continue
        topic = source.kafka_options.topic
        is_table = topic.count(".") > 1
        if isinstance(source.batch_source, LakeSource) and source.batch_source.table.startswith("changes/"):
            if not is_table:
                raise DeclarationError(
                    f"source {source.name}", f"topic {topic!r} is no table", "name it <source>.<schema>.<table>"
                )
            declared.append(Declared(view, topic, _join_keys(view, by_name)))
        elif is_table and source_of(topic) in sources:
            raise DeclarationError(
                f"source {source.name}",
                f"topic {topic} is a captured table's, and its batch source is not the table's changes in the lake",
                f'write cdc_source("{topic}")',
            )
    return declared


def compile_view(project: str, declared: Declared, table: Table, online_name: str) -> StreamView:
    """Bind a declared view to its table's columns. Raises `DeclarationError` naming view, column and type."""
    view, source = declared.view, declared.source
    renames = dict(source.field_mapping)
    columns = _named(f"source {source.name}", renames, table)
    where = f"view {view.name}"
    keys = tuple(_feature(where, key) for key in declared.join_keys)
    _check_primary_key(where, table)
    for key in keys:
        _check_key(where, key)
        _check_column(where, key, columns, table)
        _check_seconds(where, key, columns[key.name], table)
        if columns[key.name].encoding == "interval":
            raise _spelled(f"join key {key.name}", where, columns[key.name])
    vector = _vector(where, view, table)
    function = _function(view)
    names = {key.name for key in keys}
    # A stream feature view read back from the registry lists its join keys among its features.
    features = tuple(_feature(where, field) for field in view.features if field.name not in names)
    if not features:
        raise DeclarationError(where, "it has no features", "list them in its schema, each with its type")
    if function is None:
        for feature in features:
            if vector is None or feature.name != vector.name:
                _check_column(where, feature, columns, table)
    time = None if source.timestamp_field == COMMIT_TIME else source.timestamp_field
    if time is not None:
        _check_column(f"source {source.name}", Feature(time, 0, pa.timestamp("us", tz="UTC")), columns, table)
    back = {name: column for column, name in renames.items()}
    kind: Kind = "state" if {back.get(k.name, k.name) for k in keys} == set(table.primary_key) else "event"
    compiled = View(
        project=project,
        name=view.name,
        online_name=online_name,
        kind=kind,
        join_keys=keys,
        features=features,
        ttl=view.ttl if view.ttl else None,
        vector=vector,
    )
    never_null = {name for name, column in columns.items() if not column.nullable} | {field.name for field in META}
    return StreamView(compiled, table, time, renames, _transform(compiled, function, view, never_null))


def _named(where: str, renames: Mapping[str, str], table: Table) -> dict[str, Column]:
    """The table's columns by their names in the views of a source."""
    known = [column.name for column in table.columns]
    for column, to in renames.items():
        if column not in known:
            close = difflib.get_close_matches(column, known, n=1)
            instead = f"did you mean {close[0]}?" if close else f"its columns: {', '.join(known)}"
            raise DeclarationError(
                where, f"field_mapping renames {column}, which table {table.schema}.{table.name} has not", instead
            )
        if to.startswith("_"):
            raise DeclarationError(
                where, f"field_mapping renames {column} to {to}", "give it a name that does not begin with _"
            )
        (first, *more) = [other for other, name in renames.items() if name == to]
        if more:
            raise DeclarationError(
                where, f"field_mapping renames {first} and {more[0]} to {to}", "give each a name of its own"
            )
    shadowed = set(renames.values()) - set(renames)
    return {renames.get(c.name, c.name): c for c in table.columns if c.name not in shadowed}


def _check_primary_key(where: str, table: Table) -> None:
    """Rows of a table are told apart by their keys, which have to come with each change."""
    come = {field.name for field in carried(table)}
    for column in table.columns:
        if column.name in table.primary_key and column.excluded:
            raise _excluded(where, column, table)
        if column.name in table.primary_key and column.name not in come:
            raise DeclarationError(
                where,
                f"{column.name}, of the primary key of {table.schema}.{table.name}, is "
                f"{'generated' if column.generated else column.sql_type}, which Debezium does not carry",
                "give the table a primary key of other columns",
            )
        if column.name in table.primary_key and column.encoding == "interval":
            raise _spelled(f"{column.name}, of the primary key of {table.schema}.{table.name},", where, column)


def _spelled(what: str, where: str, column: Column) -> DeclarationError:
    return DeclarationError(
        where,
        f"{what} is {column.sql_type}, an interval, which PostgreSQL and Debezium spell in two ways: rows of the "
        "database could not be found again",
        "use another column, such as the interval's seconds",
    )


def personal_columns(declared: Iterable[Declared]) -> PersonalColumns:
    """The columns that personal features of these views read, all of one table.

    A feature reads the column that it is named after, by the source's renames; a vector field the columns that it
    embeds; what a function computes may be made of any column.
    """
    columns: set[str] = set()
    every = False
    for one in declared:
        personal = personal_fields(one.view)
        every = every or (bool(personal) and _function(one.view) is not None)
        back = {name: column for column, name in one.source.field_mapping.items()}
        texts = {field.name: _texts(field) for field in one.view.features if field.vector_index}
        for name in personal:
            columns.update(texts.get(name) or (back.get(name, name),))
    return PersonalColumns(frozenset(columns), every)


def personal_by_topic(declared: Iterable[Declared]) -> dict[str, PersonalColumns]:
    """The personal columns of each table that these views read."""
    by_topic: dict[str, list[Declared]] = {}
    for one in declared:
        by_topic.setdefault(one.topic, []).append(one)
    return {topic: personal_columns(views) for topic, views in by_topic.items()}


def _texts(field: Field) -> tuple[str, ...]:
    """The columns that a vector field embeds."""
    return tuple(name.strip() for name in field.tags.get(EMBEDS_TAG, "").split(",") if name.strip())


def _join_keys(view: FeatureView, entities: Mapping[str, Entity]) -> tuple[Field, ...]:
    typed = {field.name: field for field in view.entity_columns}
    keys = []
    for name in view.entities:
        if name == DUMMY_ENTITY_NAME:
            raise DeclarationError(
                f"view {view.name}",
                "it has no entity, and a view over a captured table needs one",
                "add entities=[...]: their join keys say whose features a row holds",
            )
        if name not in entities:
            close = difflib.get_close_matches(name, entities, n=1)
            instead = f"did you mean {close[0]}?" if close else "declare it as a module-level Entity"
            raise DeclarationError(f"view {view.name}", f"there is no entity {name}", instead)
        join_key, value_type = entities[name].join_key, entities[name].value_type
        if join_key not in typed and value_type != ValueType.UNKNOWN:
            typed[join_key] = Field(name=join_key, dtype=from_value_type(value_type))
        if join_key not in typed:
            raise DeclarationError(
                f"view {view.name}",
                f"the type of its join key {join_key} is not declared",
                f"add Field(name={join_key!r}, dtype=...) to its schema, or value_type=... to the entity",
            )
        keys.append(typed[join_key])
    return tuple(keys)


def _feature(where: str, field: Field) -> Feature:
    if field.name in RESERVED or field.name.startswith("_"):
        raise DeclarationError(where, f"the name {field.name} is reserved", "rename it with field_mapping")
    value_type = field.dtype.to_value_type()
    try:
        return Feature(field.name, value_type.value, arrow_type_of(value_type.value))
    except (KeyError, ValueError) as error:
        raise DeclarationError(
            where, f"field {field.name}: {value_type.name} cannot be carried", "use a scalar, an array or a timestamp"
        ) from error


def _check_key(where: str, key: Feature) -> None:
    try:
        check_key_type(key.name, key.value_type)
    except ValueError as error:
        problem, _, instead = str(error).partition("; ")
        raise DeclarationError(where, problem, instead) from error


def _check_seconds(where: str, key: Feature, column: Column, table: Table) -> None:
    """An entity key holds a UnixTimestamp in whole seconds: rows that differ by less would be one entity."""
    if key.value_type != UNIX_TIMESTAMP or not pt.is_timestamp(column.arrow_type):
        return
    if not _WHOLE_SECONDS.fullmatch(column.sql_type):
        raise DeclarationError(
            where,
            f"join key {key.name} is a UnixTimestamp, of whole seconds in an entity key, and column "
            f"{table.schema}.{table.name}.{column.name} ({column.sql_type}) can hold fractions: rows would be mixed up",
            "declare the key String, or make the column timestamp(0)",
        )


def _check_column(where: str, feature: Feature, columns: Mapping[str, Any], table: Table) -> None:
    name = f"{table.schema}.{table.name}"
    if feature.name not in columns:
        close = difflib.get_close_matches(feature.name, columns, n=1)
        instead = f"did you mean {close[0]}?" if close else f"its columns: {', '.join(columns)}"
        raise DeclarationError(where, f"table {name} has no column {feature.name}", instead)
    column = columns[feature.name]
    if column.excluded:
        raise _excluded(where, column, table)
    if column.generated:
        raise DeclarationError(
            where,
            f"column {name}.{column.name} is generated and PostgreSQL does not replicate it",
            "compute it in a view",
        )
    if column.encoding == "none":
        raise DeclarationError(
            where, f"column {name}.{column.name} has type {column.sql_type}, which cannot be carried", "leave it out"
        )
    # Of a numeric without precision Arrow has the text.
    carried = pa.decimal128(38, 0) if column.encoding == "decimal" else column.arrow_type
    if castable(carried, feature.arrow_type):
        return
    misfit = f"column {name}.{column.name} ({column.sql_type})"
    if not feature.value_type:  # no field of a view has it, but a source's event time, or the text of a vector
        needed = "a date or a timestamp" if pt.is_timestamp(feature.arrow_type) else "a text"
        raise DeclarationError(where, f"{misfit} is not {needed}", "name a column that is")
    raise DeclarationError(
        where,
        f"{misfit} cannot be carried as {feature.arrow_type}",
        f"declare a type that holds {column.arrow_type}, such as {_feast_type(column.arrow_type)}",
    )


def _feast_type(kind: pa.DataType) -> str:
    """What a field is declared as, of `feast.types`, whose values have this type in Arrow; String for all else."""
    if pt.is_list(kind):
        return f"Array({_feast_type(kind.value_type)})"
    if pt.is_timestamp(kind) or pt.is_date(kind):
        return "UnixTimestamp"
    fitting = (one for one in ValueType if has_column(one.value) and arrow_type_of(one.value) == kind)
    return str(from_value_type(next(fitting, ValueType.INT64 if pt.is_integer(kind) else ValueType.STRING)))


def _excluded(where: str, column: Column, table: Table) -> DeclarationError:
    return DeclarationError(
        where,
        f"column {table.schema}.{table.name}.{column.name} is left out of the changes by {EXCLUDED} of source "
        f"{table.source}",
        "take it out of that list, or do without it",
    )


def _vector(where: str, view: FeatureView, table: Table) -> Vector | None:
    for field in view.features:
        if not field.vector_index:
            continue
        texts = _texts(field)
        if not texts:
            raise DeclarationError(
                where, f"vector field {field.name} names no text", f'add tags={{"{EMBEDS_TAG}": "<column>, <column>"}}'
            )
        if not field.vector_length:
            raise DeclarationError(where, f"vector field {field.name} has no vector_length", "give the model's length")
        if (field.vector_search_metric or "").lower() not in METRICS:
            raise DeclarationError(
                where, f"unknown vector_search_metric {field.vector_search_metric}", f"one of {', '.join(METRICS)}"
            )
        columns = {column.name: column for column in table.columns}
        for text in texts:
            _check_column(where, Feature(text, 0, pa.string()), columns, table)
        metric = METRICS[(field.vector_search_metric or "").lower()]
        return Vector(field.name, field.vector_length, metric, texts)
    return None


def _function(view: FeatureView) -> Any:
    if not isinstance(view, StreamFeatureView):
        return None
    if view.aggregations:
        raise DeclarationError(
            f"view {view.name}", "aggregations are not carried", "compute them in its function, or in the source"
        )
    return view.udf


def _transform(view: View, function: Any, declared: FeatureView, never_null: Set[str]) -> Transform | None:
    if function is None:
        return None
    mode = getattr(declared.mode, "value", declared.mode)
    modes: dict[object, Mode] = {"pandas": "pandas", "python": "python"}
    if mode not in modes:
        raise DeclarationError(f"view {view.name}", f"mode {mode!r} is not run here", 'use "pandas" or "python"')
    returned = [f for f in (*view.join_keys, *view.features) if view.vector is None or f.name != view.vector.name]
    return transform(view.name, function, modes[mode], {f.name: f.arrow_type for f in returned}, never_null)
