"""Columns of byte strings, built whole: NumPy for what has a width, Arrow's kernels for what has not."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

BINARY = pa.large_binary()
"""The type of every column of byte strings here: 64-bit offsets, so that no batch can overflow them."""

Bytes2D = npt.NDArray[np.uint8]
"""Shape (rows, width): one byte string of `width` bytes a row."""


def contiguous(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def constant(value: bytes) -> pa.Scalar:
    """The same bytes in every row, for `join`."""
    return pa.scalar(value, BINARY)


def join(*parts: pa.Array | pa.Scalar) -> pa.Array:
    """The parts concatenated row by row; null where any part is null."""
    merged: list[pa.Array | pa.Scalar] = []
    for part in parts:
        if merged and isinstance(part, pa.Scalar) and isinstance(merged[-1], pa.Scalar):
            merged[-1] = constant(merged[-1].as_py() + part.as_py())
        else:
            merged.append(part)
    return pc.binary_join_element_wise(*merged, constant(b""))


def numbers(array: pa.Array, dtype: str) -> npt.NDArray[Any]:
    """The values buffer of a fixed-width array, without a copy; what stands in null rows is arbitrary."""
    data = array.buffers()[1]
    if data is None:
        return np.zeros(len(array), dtype)
    return np.frombuffer(data, dtype, count=array.offset + len(array))[array.offset :]


def from_matrix(matrix: Bytes2D, like: pa.Array | None = None) -> pa.Array:
    """One byte string a row of the matrix; null where `like` is null."""
    rows, width = matrix.shape
    return from_offsets(np.arange(rows + 1, dtype=np.int64) * width, np.ascontiguousarray(matrix), like)


def from_offsets(offsets: npt.NDArray[np.int64], data: Any, like: pa.Array | None = None) -> pa.Array:
    """Row i is `data[offsets[i]:offsets[i + 1]]`; null where `like` is null."""
    validity, nulls = None, 0
    if like is not None and like.null_count:
        validity, nulls = pc.is_valid(like).buffers()[1], like.null_count
    buffers = [validity, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(data)]
    return pa.Array.from_buffers(BINARY, len(offsets) - 1, buffers, nulls)


def varints(values: npt.NDArray[np.uint64], prefix: bytes = b"", like: pa.Array | None = None) -> pa.Array:
    """`prefix`, then the value as a protobuf varint (7 bits a byte, least significant first)."""
    if not len(values):
        return pa.array([], BINARY)
    widest = max(1, (int(values.max()).bit_length() + 6) // 7)
    start = len(prefix)
    matrix = np.empty((len(values), start + widest), np.uint8)
    matrix[:, :start] = np.frombuffer(prefix, np.uint8)
    lengths = np.full(len(values), start + 1, np.int64)
    rest = values
    for position in range(start, start + widest):
        matrix[:, position] = (rest & np.uint64(0x7F)).astype(np.uint8)
        rest = rest >> np.uint64(7)
        more = rest > 0
        matrix[:, position] |= more.astype(np.uint8) << 7
        lengths += more
    if int(lengths.min()) == start + widest:
        return from_matrix(matrix, like)
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return from_offsets(offsets, matrix[np.arange(start + widest) < lengths[:, None]], like)


def varint(number: int) -> bytes:
    """A number that is not negative, as protobuf writes it."""
    if number < 128:
        return bytes((number,))
    parts = bytearray()
    while number >= 128:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def parse_varints(data: bytes) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Every varint of a stream of them, and the position after each. `ValueError` if the last is cut."""
    stream = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(stream < 0x80)
    if len(stream) and (not len(ends) or ends[-1] != len(stream) - 1):
        raise ValueError("a varint is cut off")
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])[: len(ends)]
    widths = ends - starts + 1
    values = np.zeros(len(ends), np.uint64)
    for position in range(int(widths.max(initial=0))):
        reach = widths > position
        groups = (stream[starts[reach] + position] & 0x7F).astype(np.uint64)
        values[reach] |= groups << np.uint64(7 * position)
    return values, ends + 1
