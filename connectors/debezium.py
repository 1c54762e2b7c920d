"""The Debezium connector's configuration, derived from a declared source and its reflected tables.

Property names and meanings: https://debezium.io/documentation/reference/stable/connectors/postgresql.html
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from connectors.encodings import PLACEHOLDER
from connectors.source import EXCLUDED, Source, quoted
from connectors.table import Table

CONNECTOR_CLASS = "io.debezium.connector.postgresql.PostgresConnector"
INCLUDED = "table.include.list"
_JSON = "org.apache.kafka.connect.json.JsonConverter"

MAX_RECORD_BYTES = 16 * 1024 * 1024
"""The largest record that the connector may produce and that a topic which Connect creates takes."""

MAX_CONFIG_BYTES = 1_000_000
"""The largest configuration: Connect keeps it as one record of its own topic, of which its producer sends up to
1,048,576 bytes, and a task's is a little longer than its connector's."""

_ENCODINGS = {
    "key.converter": _JSON,
    "key.converter.schemas.enable": "false",
    "value.converter": _JSON,
    "value.converter.schemas.enable": "false",
    # The JSON converter writes the default of a column in place of a null unless told not to.
    "value.converter.replace.null.with.default": "false",
    "decimal.handling.mode": "string",
    "time.precision.mode": "microseconds",
    "interval.handling.mode": "string",
    # The JSON converter writes bytes as base64. Debezium's own mode "base64" would too, but it sends an
    # unchanged TOASTed bytea as null instead of as the placeholder (seen with 3.6.3).
    "binary.handling.mode": "bytes",
    "unavailable.value.placeholder": PLACEHOLDER,
    "tombstones.on.delete": "true",
    "skipped.operations": "none",
    "event.converting.failure.handling.mode": "fail",
    "extended.headers.enabled": "false",
}
"""How values are written: `connectors.encodings` reads exactly this."""

_LATENCY = {
    # Debezium hands its queue on when a batch is full or the interval is over, so a batch of one is handed on at once
    # (and no less is captured a second). What reads the log sleeps for the interval after 5 ms without a message; less
    # takes more of an idle core: at 5 a fifth, at 10 a seventh.
    "max.batch.size": "1",
    "poll.interval.ms": "10",
    # Changes that come together travel together: the broker and who reads have less to do, which on a busy machine is
    # worth more than the wait.
    "producer.override.linger.ms": "2",
    # How soon the connector is back after PostgreSQL was away, or its slot still held by a lost connection.
    "retriable.restart.connector.wait.ms": "1000",
    "slot.retry.delay.ms": "1000",
    "slot.max.retries": "60",
    # Less than the Connect client waits, so that a database out of reach is named as the reason.
    "connection.validation.timeout.ms": "10000",
}

_SAFETY = {
    "snapshot.mode": "initial",
    "publication.autocreate.mode": "disabled",
    "slot.drop.on.stop": "false",
    # Refuse to start on a slot that is ahead of the stored offset, instead of leaving a silent gap.
    "offset.mismatch.strategy": "trust_offset",
    "heartbeat.interval.ms": "10000",
    "signal.enabled.channels": "source",
    "incremental.snapshot.watermarking.strategy": "insert_delete",
    # An incremental snapshot binds the key of a chunk's last row, moments and times of day as text. The driver calls
    # text varchar unless told otherwise; PostgreSQL compares that with neither, and the snapshot would stand still
    # (https://jdbc.postgresql.org/documentation/use/, stringtype).
    "driver.stringtype": "unspecified",
}

_SIZES = {
    "producer.override.max.request.size": str(MAX_RECORD_BYTES),
    "topic.creation.default.replication.factor": "-1",
    "topic.creation.default.max.message.bytes": str(MAX_RECORD_BYTES),
}

# A URL's query, as libpq names it, and Debezium's property.
_SSL = {
    "sslmode": "database.sslmode",
    "sslrootcert": "database.sslrootcert",
    "sslcert": "database.sslcert",
    "sslkey": "database.sslkey",
    "sslpassword": "database.sslpassword",
}

# Properties that other parts of millrace know as well: a field of the source sets them, not an override.
_FIELDS = {
    "topic.prefix": "the source's name",
    "slot.name": "slot",
    "publication.name": "publication",
    "signal.data.collection": "signal_table",
    "notification.sink.topic.name": "the source's name",
    INCLUDED: "the declarations",
    "table.exclude.list": "the declarations",
    "column.include.list": "the declarations",
}

_SHAPES = frozenset(
    {
        "converters",
        "field.name.adjustment.mode",
        "message.key.columns",
        "predicates",
        "topic.delimiter",
        "topic.naming.strategy",
        "transforms",
    }
)
"""Properties that give records other keys, fields, values or topics than those that are read."""


def connector_config(source: Source, tables: Sequence[Table]) -> dict[str, str]:
    """The connector's configuration; `source.overrides` win.

    Only `tables`, and of them only columns that can be carried, are captured, so that a value of any other
    type can never stop the connector. Raises `ValueError` for an override that a field of the source sets, or of the
    form in which changes are read, and for a configuration that is larger than Connect can keep.
    """
    for name in source.overrides:
        if name in _FIELDS:
            raise ValueError(f"connector property {name} of source {source.name} is set by {_FIELDS[name]}")
        if name in _ENCODINGS:
            raise ValueError(
                f"connector property {name} of source {source.name} cannot be overridden: it gives the form in which "
                f"changes are read ({name}={_ENCODINGS[name]}); take it out of sources.{source.name}.connector"
            )
        if name in _SHAPES:
            raise ValueError(
                f"connector property {name} of source {source.name} cannot be set: records would have other keys, "
                f"fields, values or topics than those that are read; take it out of sources.{source.name}.connector"
            )
    config = {
        "connector.class": CONNECTOR_CLASS,
        "plugin.name": "pgoutput",
        "tasks.max": "1",
        **_database(source),
        "topic.prefix": source.name,
        "slot.name": source.slot,
        "publication.name": source.publication,
        INCLUDED: ",".join(_exactly(f"{t.schema}.{t.name}") for t in tables),
        "signal.data.collection": source.signal_table,
        "heartbeat.action.query": heartbeat_statement(source),
        "notification.enabled.channels": "sink",
        "notification.sink.topic.name": source.notifications_topic,
        "topic.creation.default.partitions": str(source.partitions),
        **_ENCODINGS,
        **_LATENCY,
        **_SAFETY,
        **_SIZES,
        **source.overrides,
        **_columns(source, tables),
    }
    _check_size(config, source, tables)
    return config


def not_included(config: Mapping[str, str], tables: Sequence[Table]) -> list[Table]:
    """Those of the tables that a connector of that configuration, one of `connector_config`, does not capture."""
    if INCLUDED not in config:
        return []  # it captures whatever its publication has
    included = set(re.split(r"(?<!\\),", config[INCLUDED]))  # before a comma of a name stands a backslash
    return [table for table in tables if _exactly(f"{table.schema}.{table.name}") not in included]


def _check_size(config: Mapping[str, str], source: Source, tables: Sequence[Table]) -> None:
    """In the JSON that Connect keeps (org.apache.kafka.connect.storage.KafkaConfigBackingStore)."""
    kept = {"properties": {**config, "name": source.name}}
    size = len(json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_CONFIG_BYTES:
        raise ValueError(
            f"the configuration of connector {source.name} has {size:,} bytes, and Kafka Connect keeps up to "
            f"{MAX_CONFIG_BYTES:,}: it names all columns of {len(tables)} tables; split source {source.name} into two "
            "in millrace.yaml, each with a part of the tables"
        )


def heartbeat_statement(source: Source) -> str:
    """What Debezium executes at each heartbeat: it moves the slot on while the captured tables are idle."""
    return (
        f"INSERT INTO {quoted(source.heartbeat_table)} (source, beat) VALUES ('{source.name}', now()) "
        "ON CONFLICT (source) DO UPDATE SET beat = excluded.beat"
    )


def _database(source: Source) -> dict[str, str]:
    url = source.address()
    ssl = {name: url.query[key] for key, name in _SSL.items() if key in url.query}
    return {
        "database.hostname": url.host or "",
        "database.port": str(url.port or 5432),
        "database.user": url.username or "",
        "database.password": url.password or "",
        "database.dbname": url.database or url.username or "",
        **{name: value for name, value in ssl.items() if isinstance(value, str)},
    }


def _columns(source: Source, tables: Sequence[Table]) -> dict[str, str]:
    """Which columns Debezium reads: those that are carried, or, as it takes one list only, all but those that
    are not and those that the user excludes."""
    excluded = source.overrides.get(EXCLUDED)
    if excluded is None:
        own = _pattern(source.signal_table, ["id", "type", "data"])
        return {"column.include.list": ",".join([*(_select(table, carried=True) for table in tables), own])}
    unfit = [table for table in tables if any(column.encoding == "none" for column in table.columns)]
    return {EXCLUDED: ",".join([excluded, *(_select(table, carried=False) for table in unfit)])}


def _select(table: Table, *, carried: bool) -> str:
    names = [column.name for column in table.columns if (column.encoding != "none") is carried]
    return _pattern(f"{table.schema}.{table.name}", names)


def _pattern(table: str, columns: Iterable[str]) -> str:
    return f"(?-i:{escaped(table)}\\.(?:{'|'.join(map(escaped, columns))}))"


def _exactly(name: str) -> str:
    return f"(?-i:{escaped(name)})"


def escaped(name: str) -> str:
    """A name as a Java regular expression, in a configuration or a signal. Debezium compares without case, unless told
    otherwise, and takes a comma for the end of the expression, unless a backslash stands before it."""
    return re.sub(r"([^\w])", r"\\\1", name)
