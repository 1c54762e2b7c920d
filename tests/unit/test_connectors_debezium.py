"""The derived Debezium configuration."""

import json
import re

import pyarrow as pa
import pytest

from connectors.debezium import MAX_CONFIG_BYTES, connector_config, not_included
from connectors.encodings import PLACEHOLDER
from connectors.source import Source
from connectors.table import Column, Encoding, Table, topic


def source(**fields: object) -> Source:
    url = "postgresql://user:s3cret@db.example:5433/shop?sslmode=require&sslrootcert=/ca.pem"
    values = {"name": "shop", "url": url, "slot": "shop_slot", "publication": "shop_pub", **fields}
    return Source(**values)  # type: ignore[arg-type]  # a mapping of mixed values


def table(schema: str, name: str, **columns: Encoding) -> Table:
    made = tuple(Column(n, "x", pa.int32(), encoding, True) for n, encoding in columns.items())
    return Table("shop", schema, name, topic("shop", schema, name), made, ("id",))


def test_the_database_of_the_url() -> None:
    config = connector_config(source(), [])
    assert {name: value for name, value in config.items() if name.startswith("database.")} == {
        "database.hostname": "db.example",
        "database.port": "5433",
        "database.user": "user",
        "database.password": "s3cret",
        "database.dbname": "shop",
        "database.sslmode": "require",
        "database.sslrootcert": "/ca.pem",
    }


def test_what_the_guarantees_rest_on() -> None:
    config = connector_config(source(partitions=6), [])
    assert config == config | {
        "topic.prefix": "shop",
        "slot.name": "shop_slot",
        "publication.name": "shop_pub",
        "publication.autocreate.mode": "disabled",
        "plugin.name": "pgoutput",
        "snapshot.mode": "initial",
        "skipped.operations": "none",
        "event.converting.failure.handling.mode": "fail",
        "slot.drop.on.stop": "false",
        "offset.mismatch.strategy": "trust_offset",
        "driver.stringtype": "unspecified",
        "unavailable.value.placeholder": PLACEHOLDER,
        "decimal.handling.mode": "string",
        "time.precision.mode": "microseconds",
        "binary.handling.mode": "bytes",
        "interval.handling.mode": "string",
        "max.batch.size": "1",
        "poll.interval.ms": "10",
        "producer.override.linger.ms": "2",
        "producer.override.max.request.size": "16777216",
        "topic.creation.default.partitions": "6",
        "signal.data.collection": "public.millrace_signal",
    }
    assert config["heartbeat.action.query"].startswith("INSERT INTO public.millrace_heartbeat")
    assert all(isinstance(value, str) for value in config.values())


def test_any_property_can_be_overridden() -> None:
    overrides = {"poll.interval.ms": "50", "column.mask.with.8.chars": "public.a.b"}
    assert connector_config(source(overrides=overrides), []) == connector_config(source(), []) | overrides


@pytest.mark.parametrize("name", ["topic.prefix", "slot.name", "publication.name", "table.include.list"])
def test_what_a_field_sets_is_not_overridden(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} of source shop is set by"):
        connector_config(source(overrides={name: "x"}), [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time.precision.mode", "adaptive"),
        ("decimal.handling.mode", "double"),
        ("unavailable.value.placeholder", "x"),
        ("binary.handling.mode", "hex"),
        ("interval.handling.mode", "numeric"),
        ("value.converter", "io.confluent.connect.avro.AvroConverter"),
        ("key.converter.schemas.enable", "true"),
        ("tombstones.on.delete", "false"),
        ("skipped.operations", "t"),
        ("event.converting.failure.handling.mode", "skip"),
        ("extended.headers.enabled", "true"),
    ],
)
def test_the_form_that_the_decoder_reads_is_not_overridden(name: str, value: str) -> None:
    given = connector_config(source(), [])[name]
    with pytest.raises(ValueError, match=rf"{name} of source shop cannot be overridden: .* \({name}={given}\)"):
        connector_config(source(overrides={name: value}), [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transforms", "unwrap"),
        ("message.key.columns", "public.orders:customer"),
        ("field.name.adjustment.mode", "avro"),
        ("converters", "isbn"),
        ("topic.naming.strategy", "io.debezium.schema.DefaultTopicNamingStrategy"),
    ],
)
def test_what_changes_the_shape_of_records_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} of source shop cannot be set: .* take it out of sources\.shop"):
        connector_config(source(overrides={name: value}), [])


def wide(tables: int) -> list[Table]:
    columns: dict[str, Encoding] = {f"measured_value_{i}": "plain" for i in range(300)}
    return [table("public", f"customer_orders_{i}", **columns) for i in range(tables)]


def test_a_configuration_that_connect_cannot_keep_is_refused() -> None:
    kept = {"properties": {**connector_config(source(), wide(150)), "name": "shop"}}
    assert 800_000 < len(json.dumps(kept)) < MAX_CONFIG_BYTES
    told = r"connector shop has 1,\d\d\d,\d\d\d bytes, .* up to 1,000,000: .* 200 tables; split source shop into two in"
    with pytest.raises(ValueError, match=told):
        connector_config(source(), wide(200))


def test_only_carried_columns_of_declared_tables_are_captured() -> None:
    tables = [table("public", "flights", id="plain", gone="none"), table("odd", 'a,b "C".d', id="plain")]
    config = connector_config(source(), tables)

    def selected(property_name: str, name: str) -> bool:
        # Debezium splits at commas without a backslash and matches whole names without case.
        patterns = re.split(r"(?<!\\),", config[property_name])
        return any(re.fullmatch(p.replace("(?-i:", "(?:"), name) for p in patterns)

    assert selected("table.include.list", "public.flights")
    assert selected("table.include.list", 'odd.a,b "C".d')
    assert not selected("table.include.list", "public.flightsx")
    assert not selected("table.include.list", "publicxflights")
    assert selected("column.include.list", "public.flights.id")
    assert not selected("column.include.list", "public.flights.gone")
    assert selected("column.include.list", "public.millrace_signal.data")


def test_tables_that_a_connector_does_not_include_yet() -> None:
    tables = [table("public", "flights", id="plain"), table("odd.a,b", '"C)\\",d', id="plain")]
    other = table("public", "Flights", id="plain")
    config = connector_config(source(), tables)
    assert not_included(config, tables) == []
    assert not_included(config, [*tables, other]) == [other]
    assert not_included(connector_config(source(), tables[:1]), tables) == tables[1:]
    assert not_included(connector_config(source(), tables[1:]), tables) == tables[:1]


def test_columns_that_the_user_excludes() -> None:
    tables = [table("public", "flights", id="plain", gone="none"), table("public", "planes", id="plain")]
    config = connector_config(source(overrides={"column.exclude.list": r"public\.flights\.pilot"}), tables)
    assert "column.include.list" not in config
    assert config["column.exclude.list"] == r"public\.flights\.pilot,(?-i:public\.flights\.(?:gone))"


def test_topics_are_named_as_debezium_names_them() -> None:
    assert topic("nyc", "public", "flights") == "nyc.public.flights"
    assert topic("t7", "public", 'Mixed Case, "q" é\U0001f600.x') == "t7.public.Mixed_Case___q_____.x"
