"""A captured table: its columns with their PostgreSQL types, reflected from the source database."""

import re
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Encoding = Literal[
    "plain",  # JSON's own numbers, booleans and strings
    "float",  # a JSON number, or "NaN", "Infinity", "-Infinity"
    "decimal",  # a string
    "date",  # days since 1970-01-01
    "time",  # microseconds since midnight; decoded to text, HH:MM:SS.ffffff
    "timestamp",  # microseconds since 1970-01-01, without zone
    "timestamptz",  # an ISO 8601 string in UTC
    "interval",  # an ISO 8601 duration as Debezium alone spells it: PostgreSQL prints another text for the same
    "bytes",  # base64
    "array",  # a JSON array of a type above
    "vector",  # a JSON array of numbers
    "none",  # cannot be carried: the column is left out, and no view may use it
]
"""How Debezium writes a column, under the settings of `connectors.debezium`."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `sql_type` is PostgreSQL's own name of its type, `arrow_type` what it decodes to.

    `element` is the encoding of the elements of an array. `toastable` columns can arrive as Debezium's
    placeholder for an unchanged value. `generated` columns are not replicated; `excluded` ones are left out by
    the source's `column.exclude.list`. Neither are carried: both are encoded as "none". `has_default` columns have a
    default, which Debezium writes for a value that it was not told where null is not allowed.
    """

    name: str
    sql_type: str
    arrow_type: pa.DataType
    encoding: Encoding
    nullable: bool
    element: Encoding | None = None
    toastable: bool = False
    generated: bool = False
    excluded: bool = False
    has_default: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One captured table. `source` is the name of the database in `millrace.yaml` and Debezium's
    `topic.prefix`; `topic` is `<source>.<schema>.<name>` as Debezium names it."""

    source: str
    schema: str
    name: str
    topic: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]

    def column(self, name: str) -> Column:
        """The column of that name; `KeyError` if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


def topic(source: str, schema: str, name: str) -> str:
    """The topic of a table: Debezium's `topic.naming.strategy` writes '_' for each UTF-16 unit that Kafka
    does not allow in a name (io.debezium.schema.AbstractTopicNamingStrategy)."""
    joined = f"{source}.{schema}.{name}"
    return re.sub(r"[^A-Za-z0-9._-]", lambda match: "_" * (1 + (match[0] > "\uffff")), joined)
