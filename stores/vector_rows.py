"""Rows of a vector view on their way into PostgreSQL, in the binary form of its types, and back into Arrow."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.adapt import Dumper, PyFormat, Transformer
from psycopg.pq import Format

from stores.rows import EMBEDDING, META, TIMESTAMP
from stores.vector_tables import KEY, VectorTable
from stores.vector_versions import Entity

EPOCH = 946_684_800_000_000
"""PostgreSQL counts microseconds from 2000-01-01: https://www.postgresql.org/docs/18/datatype-datetime.html"""

VECTOR_HEADER = 4
"""Bytes before a vector's numbers in pgvector's binary form: uint16 dimensions, uint16 zero."""


class Packed(bytes):
    """A value in the binary form of the type that the statement gives its parameter: what says nothing of its type is
    of that one, so that a statement is prepared once, whatever values come."""


class PackedDumper(Dumper):
    """Sends a `Packed` as it is."""

    format = Format.BINARY

    def dump(self, obj: Packed) -> Packed:
        return obj


def parameter(place: int) -> str:
    """The name of the parameter for the column at this place of `VectorTable.carried`."""
    return f"c{place}"


def packed_rows(
    driver: psycopg.Connection, vectors: VectorTable, table: pa.Table, entities: Mapping[bytes, Entity]
) -> Iterator[dict[str, Packed | None]]:
    """The rows at the entities' positions with their versions, as parameters."""
    taken = table.take(pa.array([entity.position for entity in entities.values()], pa.int64()))
    versions = [entity.version for entity in entities.values()]
    known: dict[str, Sequence[Any]] = {
        KEY: list(entities),
        "_order": [version and version.order for version in versions],
        "_lsn": [version and version.lsn for version in versions],
        "_row": [version and version.row for version in versions],
        "_undecided": [entity.undecided for entity in entities.values()],
    }
    columns = [known[name] if name in known else _values(vectors, taken, name) for name in vectors.carried]
    oids = [driver.adapters.types.get_oid(carried.packed) for carried in vectors.carried.values()]
    names = [parameter(place) for place in range(len(columns))]
    packing, formats = Transformer(driver), [PyFormat.BINARY] * len(columns)
    packing.set_dumper_types(oids, Format.BINARY)
    for row in zip(*columns, strict=True):
        values = packing.dump_sequence(row, formats)
        yield {n: None if v is None else Packed(v) for n, v in zip(names, values, strict=True)}


def packed_vector(numbers: np.ndarray) -> Packed:
    """A vector as a parameter."""
    return Packed(_sent(len(numbers), numbers.astype(">f4").tobytes()))


def arrow_table(vectors: VectorTable, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Selected rows as a table with the columns `names`, in the types of the view and of feature rows."""
    types = {f.name: f.arrow_type for f in (*vectors.view.join_keys, *vectors.view.features)}
    types.update({field.name: field.type for field in (*META, *EMBEDDING)})
    types.update({"_order": pa.int64(), "_undecided": pa.bool_()})
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table(
        {name: _column(vectors, name, values, types[name]) for name, values in zip(names, columns, strict=True)}
    )


def _values(vectors: VectorTable, table: pa.Table, name: str) -> Sequence[Any]:
    """The values of a column as Python has it for the type that it is packed as."""
    if name not in table.column_names:  # of `META` and `EMBEDDING` plain rows have not all
        return [False if name == "_deleted" else None] * table.num_rows
    column = table[name]
    if name == vectors.vector.name:
        return _vector_bytes(column)
    if pa.types.is_timestamp(column.type):
        micros = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        return pc.subtract(micros, EPOCH).to_pylist()  # type: ignore[no-any-return]
    return column.to_pylist()  # type: ignore[no-any-return]


def _sent(dimensions: int, numbers: bytes) -> bytes:
    return dimensions.to_bytes(2) + b"\0\0" + numbers


def _vector_bytes(column: pa.ChunkedArray) -> list[bytes | None]:
    """Each vector in pgvector's binary form."""
    lists = column.combine_chunks()
    numbers = np.asarray(lists.flatten(), ">f4").tobytes()
    ends = np.cumsum(np.asarray(pc.fill_null(pc.list_value_length(lists), 0))) * 4
    values: list[bytes | None] = []
    start = 0
    for end, valid in zip(ends.tolist(), lists.is_valid().to_pylist(), strict=True):
        dimensions = (end - start) // 4
        values.append(_sent(dimensions, numbers[start:end]) if valid else None)
        start = end
    return values


def _column(vectors: VectorTable, name: str, values: Sequence[Any], arrow_type: pa.DataType) -> pa.Array:
    if name == vectors.vector.name:
        return _vectors(values).cast(arrow_type)
    if pa.types.is_timestamp(arrow_type):
        return pa.array(values, pa.int64()).cast(TIMESTAMP).cast(arrow_type)
    return pa.array(values, arrow_type)


def _vectors(values: Sequence[bytes | None]) -> pa.Array:
    """Vectors in pgvector's binary form as lists of float32."""
    present = np.array([value is not None for value in values], bool)
    numbers = b"".join(value[VECTOR_HEADER:] for value in values if value is not None)
    sizes = np.array([0 if value is None else (len(value) - VECTOR_HEADER) // 4 for value in values], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    flat = pa.array(np.frombuffer(numbers, ">f4").astype(np.float32))
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(~present))
