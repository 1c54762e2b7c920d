"""Feast's entity keys, a column at a time: the names of the hashes in Redis.

The format is `serialize_entity_key` of `feast.infra.key_encoding_utils` with
`entity_key_serialization_version: 3`, followed by the project's name without a delimiter. All integers
are little-endian 32-bit: the number of join keys; for each, sorted by name, STRING's number (2), the
length and the name; then for each, in the same order, the value's type, length and bytes.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stores.binary import BINARY, constant, contiguous, from_matrix, join, numbers
from stores.values import arrow_type_of, name_of
from stores.view import Feature, View

BYTES, STRING, INT32, INT64, UNIX_TIMESTAMP = 1, 2, 3, 4, 8

DUMMY = Feature("__dummy_id", STRING, pa.string())
"""The join key that Feast gives to a view without entities; its value is the empty string."""

_FIXED = {INT32: "<i4", INT64: "<i8", UNIX_TIMESTAMP: "<i8"}
_SUPPORTED = (BYTES, STRING, INT32, INT64, UNIX_TIMESTAMP)


def check_key_type(join_key: str, value_type: int) -> None:
    """Raises `ValueError` if Feast cannot put a join key of this type into an entity key."""
    if value_type not in _SUPPORTED:
        supported = ", ".join(name_of(supported) for supported in _SUPPORTED)
        raise ValueError(
            f"join key {join_key!r} is of type {name_of(value_type)}, which cannot be part of an entity key; "
            f"give its entity one of the types {supported}"
        )


def with_dummy(table: pa.Table) -> pa.Table:
    """The table with the column of `DUMMY`, which its rows share."""
    if DUMMY.name in table.schema.names:
        return table
    return table.append_column(DUMMY.name, pa.repeat("", table.num_rows))


@dataclass(frozen=True, slots=True)
class EntityKeys:
    """The codec of the entity keys of one set of join keys in one project.

    `join_keys` are sorted by name; `prefix` is what all keys of this codec begin with.
    """

    project: bytes
    join_keys: tuple[Feature, ...]
    prefix: bytes

    def encode(self, table: pa.Table) -> pa.Array:
        """The entity key of every row of a table that has the join key columns, as large_binary.

        Raises `ValueError` if a join key is null.
        """
        parts: list[pa.Array | pa.Scalar] = [constant(self.prefix)]
        for key in self.join_keys:
            if key.name not in table.column_names and key == DUMMY:
                parts.append(constant(struct.pack("<II", STRING, 0)))
                continue
            column = contiguous(table.column(key.name))
            if column.null_count:
                raise ValueError(f"join key {key.name!r} is null in {column.null_count} of {len(column)} rows")
            parts += _encode_value(column, key.value_type)
        parts.append(constant(self.project))
        if not any(isinstance(part, pa.Array) for part in parts):
            return pa.repeat(pa.scalar(b"".join(part.as_py() for part in parts), BINARY), table.num_rows)
        return join(*parts)

    def lengths(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """The bytes of every row's entity key; a join key that is null counts as an empty one."""
        fixed = [np.dtype(_FIXED[key.value_type]).itemsize for key in self.join_keys if key.value_type in _FIXED]
        around = len(self.prefix) + len(self.project) + 8 * len(self.join_keys) + sum(fixed)
        total = np.full(table.num_rows, around, np.int64)
        for key in self.join_keys:
            if key.value_type not in _FIXED and key.name in table.column_names:
                total += np.asarray(pc.fill_null(pc.binary_length(table[key.name]), 0))
        return total

    def decode(self, keys: Sequence[bytes]) -> tuple[npt.NDArray[np.bool_], pa.Table]:
        """Which of the keys belong to this codec, and the join key columns of those, in their order.

        A key of other join keys, of other types or of another project does not belong, even if it begins
        and ends with the same bytes.
        """
        rows = [self._parse(key) for key in keys]
        belongs = np.fromiter((row is not None for row in rows), bool, len(rows))
        found = [row for row in rows if row is not None]
        columns: dict[str, pa.Array] = {}
        for position, key in enumerate(self.join_keys):
            if key != DUMMY:
                columns[key.name] = _decode_values([row[position] for row in found], key)
        if not columns:
            return belongs, pa.table({DUMMY.name: [""] * len(found)}).select([])
        return belongs, pa.table(columns)

    def _parse(self, key: bytes) -> list[bytes] | None:
        """The bytes of each join key's value; None if the key does not belong to this codec."""
        if not key.startswith(self.prefix):
            return None
        position, values = len(self.prefix), []
        for join_key in self.join_keys:
            header = key[position : position + 8]
            if len(header) < 8:
                return None
            value_type, length = struct.unpack("<II", header)
            position += 8 + length
            if value_type != join_key.value_type or position > len(key):
                return None
            values.append(key[position - length : position])
        return values if key[position:] == self.project else None


def entity_keys(view: View) -> EntityKeys:
    """The codec of a view's entity keys. Raises `ValueError` for a join key type Feast cannot serialise."""
    for key in view.join_keys:
        check_key_type(key.name, key.value_type)
    join_keys = tuple(sorted(view.join_keys, key=lambda key: key.name)) or (DUMMY,)
    names = [key.name.encode() for key in join_keys]
    prefix = struct.pack("<I", len(names)) + b"".join(struct.pack("<II", STRING, len(name)) + name for name in names)
    return EntityKeys(view.project.encode(), join_keys, prefix)


def _encode_value(column: pa.Array, value_type: int) -> list[pa.Array | pa.Scalar]:
    """Type, length and bytes of a join key's values, as parts to join."""
    if column.type != arrow_type_of(value_type):
        column = column.cast(arrow_type_of(value_type))
    if value_type in (STRING, BYTES):
        lengths = pc.binary_length(column).to_numpy().astype("<u4")
        return [
            constant(struct.pack("<I", value_type)),
            from_matrix(lengths.view(np.uint8).reshape(-1, 4)),
            column.cast(BINARY),
        ]
    dtype = _FIXED[value_type]
    values = numbers(column, dtype)
    if value_type == UNIX_TIMESTAMP:
        values = values // 1_000_000
    width = np.dtype(dtype).itemsize
    return [
        constant(struct.pack("<II", value_type, width)),
        from_matrix(values.view(np.uint8).reshape(-1, width)),
    ]


def _decode_values(values: list[bytes], key: Feature) -> pa.Array:
    if key.value_type == BYTES:
        return pa.array(values, pa.binary()).cast(key.arrow_type)
    if key.value_type == STRING:
        return pa.array(values, pa.binary()).cast(pa.string()).cast(key.arrow_type)
    decoded = np.frombuffer(b"".join(values), _FIXED[key.value_type])
    if key.value_type == UNIX_TIMESTAMP:
        decoded = decoded * 1_000_000
    return pa.array(decoded).cast(arrow_type_of(key.value_type)).cast(key.arrow_type)
