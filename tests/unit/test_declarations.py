"""Feast objects, read into what the streams run on; and what a mistake in them is told."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource, KafkaSource, ValueType
from feast.data_format import JsonFormat
from feast.stream_feature_view import stream_feature_view
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, Map, String, UnixTimestamp

from connectors.table import Column, Table
from millrace.declare import cdc_source
from stores.feast_lake import LakeSource
from streams.changes import as_snapshot, carried
from streams.declarations import DeclarationError, captured_views, compile_view
from streams.views import StreamView, project

TABLE = Table(
    source="shop",
    schema="public",
    name="Order Lines",
    topic="shop.public.Order_Lines",
    columns=(
        Column("Order Id", "bigint", pa.int64(), "plain", nullable=False),
        Column("line", "smallint", pa.int16(), "plain", nullable=False),
        Column("buyer", "text", pa.string(), "plain", nullable=True),
        Column("price", "numeric(10,2)", pa.decimal128(10, 2), "decimal", nullable=True),
        Column("tax", "numeric", pa.string(), "decimal", nullable=True),
        Column("sizes", "integer[]", pa.list_(pa.int32()), "array", nullable=True, element="plain"),
        Column("seal", "bytea", pa.binary(), "bytes", nullable=True),
        Column("sold", "date", pa.date32(), "date", nullable=True),
        Column("warranty", "span", pa.string(), "interval", nullable=False),
        Column("area", "polygon", pa.null(), "none", nullable=True),
        Column("twice", "bigint", pa.null(), "none", nullable=True, generated=True),
        Column("secret", "text", pa.null(), "none", nullable=True, excluded=True),
    ),
    primary_key=("Order Id", "line"),
)
RENAMES = {"Order Id": "order_id"}

order = Entity(name="order", join_keys=["order_id"], value_type=ValueType.INT64)
line = Entity(name="line", value_type=ValueType.INT32)
buyer = Entity(name="buyer", value_type=ValueType.STRING)
KEY = Field(name="buyer", dtype=String)
source = cdc_source("shop.public.Order Lines", field_mapping=RENAMES)


def view(*fields: Field, entities: Any = (order, line), **options: Any) -> FeatureView:
    return FeatureView(name="lines", entities=list(entities), source=options.pop("source", source), schema=list(fields))


def compiled(declared: FeatureView, table: Table = TABLE) -> StreamView:
    (found,) = captured_views([declared], [order, line, buyer], ["shop"])
    return compile_view("p", found, table, "lines")


def refused(*fields: Field, **options: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        compiled(view(*fields, **options))
    return str(caught.value)


def test_the_topic_spells_what_kafka_allows_and_the_source_what_postgresql_has() -> None:
    (declared,) = captured_views([view(Field(name="price", dtype=Float64))], [order, line], ["shop"])
    assert (declared.topic, declared.table) == ("shop.public.Order_Lines", "public.Order Lines")
    (plain,) = captured_views(
        [view(Field(name="price", dtype=Float64), source=cdc_source("shop.public.orders"))], [order, line], ["shop"]
    )
    assert (plain.topic, plain.table) == ("shop.public.orders", "public.orders")
    assert not plain.source.tags


def test_join_keys_that_are_the_primary_key_make_a_state_view() -> None:
    stream_view = compiled(view(Field(name="price", dtype=Float64)))
    assert stream_view.view.kind == "state"
    assert stream_view.key_columns == ("Order Id", "line")
    assert [(key.name, key.arrow_type) for key in stream_view.view.join_keys] == [
        ("order_id", pa.int64()),
        ("line", pa.int32()),
    ]


@pytest.mark.parametrize("entities", [[order], [buyer], [order, line, buyer]])
def test_any_other_join_keys_make_an_event_view(entities: list[Entity]) -> None:
    assert compiled(view(Field(name="price", dtype=Float64), entities=entities)).view.kind == "event"


def test_the_event_time_is_a_column_or_the_commit() -> None:
    assert compiled(view(Field(name="price", dtype=Float64))).event_time is None
    timed = cdc_source("shop.public.Order Lines", event_time="sold", field_mapping=RENAMES)
    assert compiled(view(Field(name="price", dtype=Float64), source=timed)).event_time == "sold"
    unknown = cdc_source("shop.public.Order Lines", event_time="sould", field_mapping=RENAMES)
    assert "has no column sould; did you mean sold?" in refused(Field(name="price", dtype=Float64), source=unknown)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("area", "is polygon, which"),
        ("twice", "is generated, which"),
        ("warranty", "is span, an interval, which PostgreSQL and Debezium spell in two ways"),
    ],
)
def test_a_primary_key_has_to_come_with_the_changes(name: str, told: str) -> None:
    with pytest.raises(
        DeclarationError, match=rf"view lines: {name}, of the primary key of public\.Order Lines,? {told}"
    ):
        compiled(view(KEY, entities=[buyer]), replace(TABLE, primary_key=("line", name)))


def test_an_interval_is_a_feature_and_no_join_key() -> None:
    compiled(view(KEY, Field(name="warranty", dtype=String), entities=[buyer]))
    warranty = Entity(name="warranty", value_type=ValueType.STRING)
    (found,) = captured_views([view(KEY, entities=[warranty])], [warranty], ["shop"])
    with pytest.raises(DeclarationError, match="view lines: join key warranty is span, an interval, which PostgreSQL"):
        compile_view("p", found, TABLE, "lines")


def test_a_view_over_another_source_is_feasts_own_business() -> None:
    batch = FileSource(path="x.parquet", timestamp_field="t")
    assert captured_views([view(Field(name="price", dtype=Float64), source=batch)], [order, line], ["shop"]) == []


def kafka(topic: str, batch: Any) -> KafkaSource:
    options: Any = {"kafka_bootstrap_servers": "k:9092", "message_format": JsonFormat(schema_json="")}
    return KafkaSource(name="clicks", topic=topic, timestamp_field="t", batch_source=batch, **options)


@pytest.mark.parametrize("topic", ["clicks", "web.clicks", "com.acme.clicks.v1"])
@pytest.mark.parametrize(
    "batch", [FileSource(path="x.parquet", timestamp_field="t"), LakeSource(name="l", table="x/y")]
)
def test_a_view_over_a_kafka_source_of_ones_own_is_feasts_own_business(topic: str, batch: Any) -> None:
    clicks = view(Field(name="price", dtype=Float64), source=kafka(topic, batch))
    captured = view(Field(name="price", dtype=Float64))
    assert [found.view for found in captured_views([clicks, captured], [order, line], ["shop"])] == [captured]


def test_a_source_by_hand_on_a_captured_tables_topic_is_an_error() -> None:
    by_hand = kafka("shop.public.orders", FileSource(path="x.parquet", timestamp_field="t"))
    told = r'source clicks: topic shop\.public\.orders is a captured .*; write cdc_source\("shop\.public\.orders"\)'
    with pytest.raises(DeclarationError, match=told):
        captured_views([view(Field(name="price", dtype=Float64), source=by_hand)], [order, line], ["shop"])


def test_a_captured_view_is_known_again_in_the_registry() -> None:
    declared = FeatureView.from_proto(view(Field(name="price", dtype=Float64)).to_proto())
    (found,) = captured_views([declared], [order, line], ["shop"])
    assert found.table == "public.Order Lines"


def test_a_view_without_an_entity_is_an_error() -> None:
    with pytest.raises(DeclarationError, match=r"view lines: it has no entity, .*; add entities"):
        compiled(view(Field(name="price", dtype=Float64), entities=[]))


def test_a_view_without_features_is_an_error() -> None:
    for fields in ((), (Field(name="order_id", dtype=Int64),)):
        assert refused(*fields) == "view lines: it has no features; list them in its schema, each with its type"


@pytest.mark.parametrize(
    ("renames", "problem"),
    [
        ({"buyer": "who", "tax": "who"}, "field_mapping renames buyer and tax to who; give each a name of its own"),
        ({"byer": "who"}, "field_mapping renames byer, which table public.Order Lines has not; did you mean buyer?"),
        ({"tax": "_lsn"}, "field_mapping renames tax to _lsn; give it a name that does not begin with _"),
    ],
)
def test_renames_leave_each_column_a_name_of_its_own(renames: dict[str, str], problem: str) -> None:
    mapped = cdc_source("shop.public.Order Lines", field_mapping={**RENAMES, **renames})
    assert refused(Field(name="price", dtype=Float64), source=mapped) == f"source shop.public.Order Lines: {problem}"


def test_a_renamed_column_hides_one_that_has_its_name() -> None:
    """A foreign key by the entity's join key, over the table's own primary key of that name."""
    orders = Table(
        *("shop", "public", "orders", "shop.public.orders"),
        columns=(
            Column("id", "bigint", pa.int64(), "plain", nullable=False),
            Column("customer_id", "bigint", pa.int64(), "plain", nullable=True),
            Column("amount", "bigint", pa.int64(), "plain", nullable=True),
        ),
        primary_key=("id",),
    )
    customer = Entity(name="customer", join_keys=["id"], value_type=ValueType.INT64)
    mapped = cdc_source("shop.public.orders", field_mapping={"customer_id": "id"})
    declared = view(
        Field(name="id", dtype=Int64), Field(name="amount", dtype=Int64), entities=[customer], source=mapped
    )
    (found,) = captured_views([declared], [customer], ["shop"])
    stream_view = compile_view("p", found, orders, "lines")
    assert (stream_view.view.kind, stream_view.key_columns) == ("event", ("customer_id",))
    columns = [pa.array([70, 71, 72]), pa.array([1, 1, 2]), pa.array([5, 6, 7])]
    changes = as_snapshot(orders, pa.table(columns, schema=pa.schema(carried(orders))))
    rows = project(stream_view, changes).rows.table
    assert (rows["id"].to_pylist(), rows["amount"].to_pylist()) == ([1, 1, 2], [5, 6, 7])
    by_amount = Entity(name="by_amount", join_keys=["amount"], value_type=ValueType.INT64)
    unmapped = view(
        Field(name="customer_id", dtype=Int64), entities=[by_amount], source=cdc_source("shop.public.orders")
    )
    (found,) = captured_views([unmapped], [by_amount], ["shop"])
    assert rows["_row"] == project(compile_view("p", found, orders, "lines"), changes).rows.table["_row"]
    assert len(set(rows["_row"].to_pylist())) == 3


def moment(sql_type: str, kind: pa.DataType, dtype: Any = UnixTimestamp) -> StreamView:
    """A state view whose join key is a moment."""
    encoding: Any = "date" if pa.types.is_date(kind) else "timestamp"
    table = replace(TABLE, columns=(*TABLE.columns, Column("at", sql_type, kind, encoding, False)), primary_key=("at",))
    seen = Entity(name="seen", join_keys=["at"], value_type=dtype.to_value_type())
    (found,) = captured_views([view(Field(name="price", dtype=Float64), entities=[seen])], [seen], ["shop"])
    return compile_view("p", found, table, "lines")


MICROS, UTC_MICROS = pa.timestamp("us"), pa.timestamp("us", tz="UTC")


@pytest.mark.parametrize(
    ("sql_type", "kind"),
    [
        ("timestamp without time zone", MICROS),
        ("timestamp with time zone", UTC_MICROS),
        ("timestamp(3) with time zone", UTC_MICROS),
        ("moments", UTC_MICROS),  # a domain, of whatever precision
    ],
)
def test_a_moment_with_a_fraction_is_no_join_key_in_whole_seconds(sql_type: str, kind: pa.DataType) -> None:
    with pytest.raises(DeclarationError) as caught:
        moment(sql_type, kind)
    assert f"column public.Order Lines.at ({sql_type}) can hold fractions" in str(caught.value)
    assert moment(sql_type, kind, String).view.kind == "state"


@pytest.mark.parametrize(
    ("sql_type", "kind"),
    [
        ("timestamp(0) without time zone", MICROS),
        ("timestamp(0) with time zone", UTC_MICROS),
        ("date", pa.date32()),
    ],
)
def test_a_moment_of_whole_seconds_is_a_join_key(sql_type: str, kind: pa.DataType) -> None:
    assert moment(sql_type, kind).view.kind == "state"


def test_what_reads_an_excluded_column_is_refused() -> None:
    told = "column public.Order Lines.secret is left out of the changes by column.exclude.list of source shop"
    price = Field(name="price", dtype=Float64)
    secret = Entity(name="secret", value_type=ValueType.STRING)
    timed = cdc_source("shop.public.Order Lines", event_time="secret")
    reading = [
        (view(Field(name="secret", dtype=String), entities=[buyer]), TABLE),
        (view(price, entities=[secret]), TABLE),
        (view(price, entities=[buyer], source=timed), TABLE),
        (view(vector(tags={"embeds": "buyer, secret"}), entities=[buyer]), TABLE),
        (view(price, entities=[buyer]), replace(TABLE, primary_key=("secret",))),
    ]
    for declared, table in reading:
        (found,) = captured_views([declared], [buyer, secret], ["shop"])
        with pytest.raises(DeclarationError, match=told):
            compile_view("p", found, table, "lines")
    assert compiled(view(price)).view.features  # of what nothing reads, nothing


def test_a_column_that_differs_by_a_letter_is_suggested() -> None:
    message = "view lines: table public.Order Lines has no column prize; did you mean price?"
    assert refused(Field(name="prize", dtype=Float64)) == message


@pytest.mark.parametrize(
    ("name", "dtype", "problem"),
    [
        ("area", String, "column public.Order Lines.area has type polygon, which cannot be carried"),
        ("twice", Int64, "column public.Order Lines.twice is generated"),
        ("seal", String, "(bytea) cannot be carried as string"),
        ("buyer", Int64, "(text) cannot be carried as int64"),
        ("sizes", Int32, "(integer[]) cannot be carried as int32"),
        ("sizes", Array(Bytes), "(integer[]) cannot be carried as list"),
        ("sold", Bool, "(date) cannot be carried as bool"),
        ("price", Map, "field price: MAP cannot be carried"),
        ("_hidden", String, "the name _hidden is reserved"),
    ],
)
def test_what_cannot_be_carried_is_an_error(name: str, dtype: Any, problem: str) -> None:
    assert problem in refused(Field(name=name, dtype=dtype))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("price", Float64),
        ("price", Float32),
        ("price", String),
        ("tax", Float64),
        ("tax", String),
        ("sizes", Array(Int64)),
        ("sizes", Array(Float64)),
        ("seal", Bytes),
        ("sold", UnixTimestamp),
        ("sold", String),
    ],
)
def test_what_can_be_carried(name: str, dtype: Any) -> None:
    (feature,) = compiled(view(Field(name=name, dtype=dtype))).view.features
    assert feature.name == name


def test_a_key_needs_a_type() -> None:
    untyped = Entity(name="buyer", value_type=ValueType.UNKNOWN)
    price = Field(name="price", dtype=Float64)
    with pytest.raises(DeclarationError, match="the type of its join key buyer is not declared; add Field"):
        captured_views([view(price, entities=[untyped])], [untyped], ["shop"])
    for declared, entity in ((view(price, entities=[buyer]), buyer), (view(price, KEY, entities=[untyped]), untyped)):
        (found,) = captured_views([declared], [entity], ["shop"])
        assert found.join_keys == (KEY,)


def test_a_key_must_be_of_a_type_that_an_entity_key_can_hold() -> None:
    amount = Entity(name="amount", join_keys=["price"], value_type=ValueType.DOUBLE)
    with pytest.raises(DeclarationError, match=r"join key 'price' is of type DOUBLE.*; give its entity one of"):
        (found,) = captured_views([view(Field(name="tax", dtype=String), entities=[amount])], [amount], ["shop"])
        compile_view("p", found, TABLE, "lines")


def test_an_entity_must_be_declared() -> None:
    with pytest.raises(DeclarationError, match=r"view lines: there is no entity line; did you mean lines\?"):
        captured_views([view(Field(name="price", dtype=Float64))], [order, Entity(name="lines")], ["shop"])


def vector(**fields: Any) -> Field:
    declared = {"vector_index": True, "vector_length": 4, "vector_search_metric": "cosine", "tags": {"embeds": "buyer"}}
    return Field(name="meaning", dtype=Array(Float32), **{**declared, **fields})


def test_a_vector_names_its_text() -> None:
    found = compiled(view(vector(tags={"embeds": "buyer, tax"}))).view.vector
    assert found is not None
    assert (found.name, found.length, found.metric, found.columns) == ("meaning", 4, "cosine", ("buyer", "tax"))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tags": {}}, 'vector field meaning names no text; add tags={"embeds": '),
        ({"tags": {"embeds": "bayer"}}, "has no column bayer; did you mean buyer?"),
        ({"vector_length": 0}, "has no vector_length; give the model's length"),
        ({"vector_search_metric": "manhattan"}, "unknown vector_search_metric manhattan; one of"),
    ],
)
def test_a_vector_that_is_not_whole(fields: dict[str, Any], problem: str) -> None:
    assert problem in refused(vector(**fields))


def function(**options: Any) -> Any:
    def made(rows: Any) -> Any:
        return rows

    settings = {"entities": [buyer], "ttl": timedelta(0), "mode": "python", "source": source, **options}
    return stream_feature_view(schema=[Field(name="buyer", dtype=String), Field(name="new", dtype=Int64)], **settings)(
        made
    )


def test_a_function_may_return_what_is_no_column() -> None:
    (found,) = captured_views([function()], [buyer], ["shop"])
    stream_view = compile_view("p", found, TABLE, "made")
    assert stream_view.transform is not None
    assert [feature.name for feature in stream_view.view.features] == ["new"]


def test_a_frame_has_the_types_that_the_tables_nullability_asks_for() -> None:
    columns = (
        Column("id", "bigint", pa.int64(), "plain", nullable=False),
        Column("whole", "integer", pa.int32(), "plain", nullable=False),
        Column("part", "smallint", pa.int16(), "plain", nullable=True),
        Column("sold", "boolean", pa.bool_(), "plain", nullable=False),
        Column("read", "boolean", pa.bool_(), "plain", nullable=True),
    )
    books = Table("shop", "public", "books", "shop.public.books", columns, ("id",))
    mapped = cdc_source("shop.public.books", field_mapping={"whole": "renamed"})
    reader = Entity(name="reader", join_keys=["id"], value_type=ValueType.INT64)
    seen: dict[str, str] = {}

    def made(frame: pd.DataFrame) -> pd.DataFrame:
        seen.update({str(name): str(dtype) for name, dtype in frame.dtypes.items()})
        return frame.assign(new=1)

    schema = [Field(name="id", dtype=Int64), Field(name="new", dtype=Int64)]
    declared = stream_feature_view(schema=schema, entities=[reader], ttl=timedelta(0), mode="pandas", source=mapped)
    (found,) = captured_views([declared(made)], [reader], ["shop"])
    values = [pa.array([1]), pa.array([2], pa.int32()), pa.array([3], pa.int16()), pa.array([True]), pa.array([True])]
    changes = as_snapshot(books, pa.table(values, schema=pa.schema(carried(books))))
    project(compile_view("p", found, books, "made"), changes)
    of_table = {"id": "int64", "renamed": "int32", "part": "Int16", "sold": "bool", "read": "boolean"}
    assert {name: seen[name] for name in of_table} == of_table
    assert (seen["_lsn"], seen["_partition"], seen["_offset"]) == ("int64", "int32", "int64")


def test_other_modes_are_refused() -> None:
    spark = function()
    spark.mode = "spark"  # as it is where Spark is installed
    (found,) = captured_views([spark], [buyer], ["shop"])
    with pytest.raises(DeclarationError, match='is not run here; use "pandas" or "python"'):
        compile_view("p", found, TABLE, "made")


@pytest.mark.parametrize("table", ["orders", "public.orders"])
def test_a_source_names_database_schema_and_table(table: str) -> None:
    with pytest.raises(ValueError, match=r"write <source>\.<schema>\.<table>"):
        cdc_source(table)
