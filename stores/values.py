"""Feast's stored values, a column at a time: `feast.types.Value`, serialised by protobuf's rules.

The message is one `oneof`, so a value is a tag and its payload, and a null is no bytes at all. The
numbers of the fields are those of `feast/types/Value.proto`; scalars and lists of Feast 0.67 that have
a column type are carried. Two things differ on purpose from what Feast makes of a pandas column: a NaN
stays a NaN (pandas cannot tell it from a null), and a null timestamp is no bytes (Feast stores NaT).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.timestamp_pb2 import Timestamp

from stores.binary import (
    BINARY,
    constant,
    contiguous,
    from_matrix,
    from_offsets,
    join,
    numbers,
    parse_varints,
    varint,
    varints,
)

NO_TIMESTAMP = -(2**63)
"""What Feast stores for a null timestamp inside a list, and for one that passed through pandas."""

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_ELEMENT = b"\x0a"  # field 1, length-delimited: the elements inside every list message
_TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True)
class _Scalar:
    """How a scalar is stored: its field in `Value`, its wire type, and the column type it has in Arrow."""

    name: str
    field: int
    wire: int
    arrow_type: pa.DataType
    dtype: str = ""

    @property
    def tag(self) -> bytes:
        return _tag(self.field, self.wire)


@dataclass(frozen=True, slots=True)
class _List:
    """How a list is stored: its field in `Value`, and how an element of it is."""

    name: str
    field: int
    element: _Scalar

    @property
    def tag(self) -> bytes:
        return _tag(self.field, _DELIMITED)

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.list_(self.element.arrow_type)


def _tag(field: int, wire: int) -> bytes:
    number = field << 3 | wire
    return bytes([number]) if number < 128 else bytes([number & 0x7F | 0x80, number >> 7])


_SCALARS = {
    1: _Scalar("BYTES", 1, _DELIMITED, pa.binary()),
    2: _Scalar("STRING", 2, _DELIMITED, pa.string()),
    3: _Scalar("INT32", 3, _VARINT, pa.int32(), "<i4"),
    4: _Scalar("INT64", 4, _VARINT, pa.int64(), "<i8"),
    5: _Scalar("DOUBLE", 5, _FIXED64, pa.float64(), "<f8"),
    6: _Scalar("FLOAT", 6, _FIXED32, pa.float32(), "<f4"),
    7: _Scalar("BOOL", 7, _VARINT, pa.bool_()),
    8: _Scalar("UNIX_TIMESTAMP", 8, _VARINT, _TIMESTAMP, "<i8"),
    30: _Scalar("PDF_BYTES", 1, _DELIMITED, pa.binary()),
    31: _Scalar("IMAGE_BYTES", 1, _DELIMITED, pa.binary()),
    32: _Scalar("JSON", 32, _DELIMITED, pa.string()),
    36: _Scalar("UUID", 36, _DELIMITED, pa.string()),
    37: _Scalar("TIME_UUID", 37, _DELIMITED, pa.string()),
    44: _Scalar("DECIMAL", 44, _DELIMITED, pa.string()),
}
_LISTS = {
    **{number + 10: _List(f"{_SCALARS[number].name}_LIST", number + 10, _SCALARS[number]) for number in range(1, 9)},
    33: _List("JSON_LIST", 33, _SCALARS[32]),
    38: _List("UUID_LIST", 38, _SCALARS[36]),
    39: _List("TIME_UUID_LIST", 39, _SCALARS[37]),
    45: _List("DECIMAL_LIST", 45, _SCALARS[44]),
}
_FORMATS: dict[int, _Scalar | _List] = {**_SCALARS, **_LISTS}


def name_of(value_type: int) -> str:
    """The name of a number of Feast's `ValueType`, as far as it can be carried; else the number."""
    return _FORMATS[value_type].name if value_type in _FORMATS else f"number {value_type}"


def has_column(value_type: int) -> bool:
    """Whether a number of Feast's `ValueType` has a column type, and can be carried."""
    return value_type in _FORMATS


def arrow_type_of(value_type: int) -> pa.DataType:
    """The column type of a Feast `ValueType`. Raises `ValueError` for a type that cannot be carried."""
    if value_type not in _FORMATS:
        supported = ", ".join(known.name for known in _FORMATS.values())
        raise ValueError(f"Feast's value type {value_type} cannot be carried; the types that can: {supported}")
    return _FORMATS[value_type].arrow_type


def encode(column: pa.Array | pa.ChunkedArray, value_type: int) -> pa.Array:
    """Each value as the bytes of `Value.SerializeToString()`, as large_binary; a null stays null.

    (Feast stores a null as no bytes: `fill_null(b"")`.) The column is cast to `arrow_type_of(value_type)`
    if it is of another type; raises `pyarrow.ArrowInvalid` if a value does not survive that.
    Timestamps are stored in whole seconds, rounded down, as Feast has them.
    """
    array = contiguous(column)
    if array.type != arrow_type_of(value_type):
        array = array.cast(arrow_type_of(value_type))
    form = _FORMATS[value_type]
    if isinstance(form, _List):
        return _delimited(form.tag, _list_body(array, form.element))
    if form.wire == _DELIMITED:
        return _delimited(form.tag, array.cast(BINARY))
    if form.wire == _VARINT:
        return varints(_integers(array, form), form.tag, array)
    return _fixed_width(form.tag, array, form.dtype)


def encode_each(column: pa.Array | pa.ChunkedArray, value_type: int) -> list[bytes | None]:
    """As `encode`, value by value: for a few values it costs a tenth, for many it is far slower."""
    array = contiguous(column)
    form = _FORMATS[value_type]
    if isinstance(form, _List) or array.type != form.arrow_type:
        encoded: list[bytes | None] = encode(array, value_type).to_pylist()
        return encoded
    if form.name == "UNIX_TIMESTAMP":
        array = array.cast(pa.int64())
    return [None if value is None else form.tag + _body(value, form) for value in array.to_pylist()]


def _body(value: Any, form: _Scalar) -> bytes:
    """What stands behind the tag of one scalar; a timestamp is given in microseconds."""
    if form.wire == _DELIMITED:
        data = value.encode() if isinstance(value, str) else value
        return varint(len(data)) + data
    if form.wire == _VARINT:
        return varint((value // 1_000_000 if form.name == "UNIX_TIMESTAMP" else int(value)) & (2**64 - 1))
    return struct.pack(form.dtype.replace("f8", "d").replace("f4", "f"), value)


def as_stored(
    column: pa.Array | pa.ChunkedArray, value_type: int, *, by_pandas: bool = False
) -> pa.Array | pa.ChunkedArray:
    """The column as `decode(encode(column))` gives it back, so that what is kept elsewhere is what is served:
    timestamps in whole seconds, and in lists, which have no nulls in Feast, its stand-ins for them. Of what passes
    through pandas on its way to the online store, as pushed rows do, that of floating-point numbers is NaN."""
    form = _FORMATS[value_type]
    if isinstance(form, _List):
        return _list_as_stored(contiguous(column), form.element, by_pandas)
    return pc.floor_temporal(column, unit="second") if form.name == "UNIX_TIMESTAMP" else column


def _list_as_stored(array: pa.Array, element: _Scalar, by_pandas: bool) -> pa.Array:
    elements = array.flatten()
    if element.name == "UNIX_TIMESTAMP":
        stored = pc.floor_temporal(elements, unit="second")
    elif elements.null_count:
        of_pandas = by_pandas and element.wire in (_FIXED32, _FIXED64)
        stored = elements.fill_null(float("nan") if of_pandas else _stand_in(element))
    else:
        return array
    counts = pc.list_value_length(array).fill_null(0).to_numpy()
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), stored, type=array.type, mask=array.is_null())


def decode(values: Sequence[bytes | None], value_type: int) -> pa.Array:
    """The column of stored values, of type `arrow_type_of(value_type)`; None and no bytes are null.

    Raises `ValueError` if a value was stored as another type.
    """
    form = _FORMATS[value_type]
    found = [value for value in values if value]
    try:
        dense = _decode_list(found, form) if isinstance(form, _List) else _decode_scalar(found, form)
    except (ValueError, IndexError) as error:
        raise ValueError(f"a stored value is not of the declared type {form.name}: {error}") from None
    return dense if len(found) == len(values) else _spread(dense, np.array(list(map(bool, values)), bool))


def encode_timestamps(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column of type timestamp(us, UTC) as serialised `google.protobuf.Timestamp`; a null is the epoch."""
    micros = numbers(contiguous(column).cast(pa.int64()).fill_null(0), "<i8")
    seconds = micros // 1_000_000
    nanos = (micros - seconds * 1_000_000) * 1000
    return join(_unless_zero(seconds, b"\x08"), _unless_zero(nanos, b"\x10"))


def encode_each_timestamp(column: pa.Array | pa.ChunkedArray) -> list[bytes]:
    """As `encode_timestamps`, value by value."""
    micros = contiguous(column).cast(pa.int64()).fill_null(0).to_pylist()
    return [Timestamp(seconds=m // 1_000_000, nanos=m % 1_000_000 * 1_000).SerializeToString() for m in micros]


def decode_timestamps(values: Sequence[bytes | None]) -> pa.Array:
    """The timestamps, to the microsecond; None (there is none) is null."""
    moments = [None if value is None else Timestamp.FromString(value) for value in values]
    micros = [moment and moment.seconds * 1_000_000 + moment.nanos // 1000 for moment in moments]
    return pa.array(micros, pa.int64()).cast(_TIMESTAMP)


def _unless_zero(values: npt.NDArray[np.int64], tag: bytes) -> pa.Array:
    """A field of proto3: left out where it is zero."""
    return pc.if_else(pa.array(values != 0), varints(values.view(np.uint64), tag), constant(b""))


def _spread(dense: pa.Array, present: npt.NDArray[np.bool_]) -> pa.Array:
    """The dense values at the places marked present, null elsewhere."""
    places = np.cumsum(present) - 1
    return dense.take(pa.array(places, mask=~present))


def _delimited(tag: bytes, payload: pa.Array) -> pa.Array:
    lengths = varints(pc.binary_length(payload).fill_null(0).to_numpy().astype(np.uint64), tag)
    return join(lengths, payload)


def _fixed_width(tag: bytes, array: pa.Array, dtype: str) -> pa.Array:
    width = np.dtype(dtype).itemsize
    matrix = np.empty((len(array), 1 + width), np.uint8)
    matrix[:, 0] = tag[0]
    matrix[:, 1:] = numbers(array, dtype).view(np.uint8).reshape(-1, width)
    return from_matrix(matrix, array)


def _integers(array: pa.Array, form: _Scalar) -> npt.NDArray[np.uint64]:
    """What protobuf writes as varint: 64 bits, negative numbers in two's complement."""
    if form.name == "BOOL":
        return array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint64)  # type: ignore[no-any-return]
    integers = numbers(array, form.dtype).astype(np.int64)
    if form.name == "UNIX_TIMESTAMP":
        integers = integers // 1_000_000
    return integers.view(np.uint64)


def _list_body(array: pa.Array, element: _Scalar) -> pa.Array:
    """The message inside a list value: numbers packed under one tag, strings each under its own."""
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    elements = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    offsets = offsets.astype(np.int64) - offsets[0]
    if element.wire == _DELIMITED:
        filled = elements.fill_null(_stand_in(element)).cast(BINARY)
        packed = _delimited(_ELEMENT, filled)
        return _gather(packed, offsets, array)
    data = _gather(_elements(elements, element), offsets, array)
    empty = pc.equal(pc.binary_length(data), 0)
    return pc.if_else(empty, constant(b""), _delimited(_ELEMENT, data))


def _stand_in(element: _Scalar) -> pa.Scalar:
    """What Feast stores for a null inside a list, but for timestamps."""
    empty = "null" if element.name == "JSON" else ""
    value = empty if element.wire == _DELIMITED else 0
    return pa.scalar(value, pa.string() if element.wire == _DELIMITED else pa.int64()).cast(element.arrow_type)


def _elements(elements: pa.Array, element: _Scalar) -> pa.Array:
    """Each number of a list as it stands in the packed field; Feast's stand-in for a null inside a list."""
    if element.name == "UNIX_TIMESTAMP":
        seconds = _integers(elements, element).view(np.int64)
        valid = elements.is_valid().to_numpy(zero_copy_only=False)
        return varints(np.where(valid, seconds, NO_TIMESTAMP).view(np.uint64))
    filled = elements.fill_null(_stand_in(element))
    if element.wire == _VARINT:
        return varints(_integers(filled, element))
    width = np.dtype(element.dtype).itemsize
    return from_matrix(numbers(filled, element.dtype).view(np.uint8).reshape(-1, width))


def _gather(elements: pa.Array, offsets: npt.NDArray[np.int64], like: pa.Array) -> pa.Array:
    """The bytes of each list's elements, one after the other: the same data under coarser offsets."""
    edges = (
        np.frombuffer(elements.buffers()[1], np.int64)[: len(elements) + 1] if len(elements) else np.zeros(1, np.int64)
    )
    return from_offsets(edges[offsets], elements.buffers()[2] or b"", like)


def _decode_scalar(values: list[bytes], form: _Scalar) -> pa.Array:
    if form.wire == _DELIMITED:
        payloads = pa.array([_payload(value, form.tag) for value in values], pa.binary())
        return payloads.cast(form.arrow_type)
    if form.wire == _VARINT:
        # A tag below 128 is itself a varint: the joined values are pairs of tag and number.
        pairs = parse_varints(b"".join(values))[0]
        if len(pairs) != 2 * len(values) or (pairs[::2] != form.tag[0]).any():
            raise ValueError("another tag")
        return _integer_column(pairs[1::2].view(np.int64), form)
    width = 1 + np.dtype(form.dtype).itemsize
    data = b"".join(values)
    if len(data) != width * len(values):
        raise ValueError("another length")
    matrix = np.frombuffer(data, np.uint8).reshape(-1, width)
    if (matrix[:, 0] != form.tag[0]).any():
        raise ValueError("another tag")
    return pa.array(np.ascontiguousarray(matrix[:, 1:]).view(form.dtype)[:, 0], form.arrow_type)


def _integer_column(integers: npt.NDArray[np.int64], form: _Scalar) -> pa.Array:
    if form.name == "BOOL":
        return pa.array(integers != 0)
    if form.name != "UNIX_TIMESTAMP":
        return pa.array(integers).cast(form.arrow_type)
    absent = integers == NO_TIMESTAMP
    return pa.array(np.where(absent, 0, integers) * 1_000_000, mask=absent).cast(_TIMESTAMP)


def _decode_list(values: list[bytes], form: _List) -> pa.Array:
    bodies = [_payload(value, form.tag) for value in values]
    element = form.element
    if element.wire == _DELIMITED:
        lists = [_split(body) for body in bodies]
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        flat: Any = pa.array([item for items in lists for item in items], pa.binary()).cast(element.arrow_type)
        return _lists(counts, flat)
    packed = [_payload(body, _ELEMENT) if body else b"" for body in bodies]
    sizes = np.fromiter(map(len, packed), np.int64, len(packed))
    data = b"".join(packed)
    if element.wire == _VARINT:
        integers, ends = parse_varints(data)
        reached = np.searchsorted(ends, np.cumsum(sizes), side="right")
        return _lists(np.diff(reached, prepend=0), _integer_column(integers.view(np.int64), element))
    numbers_ = np.frombuffer(data, element.dtype)
    return _lists(sizes // np.dtype(element.dtype).itemsize, pa.array(numbers_, element.arrow_type))


def _lists(counts: npt.NDArray[np.int64], flat: pa.Array) -> pa.Array:
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _payload(value: bytes, tag: bytes) -> bytes:
    """What stands behind the tag and the length of a length-delimited field that is all of `value`."""
    if not value.startswith(tag):
        raise ValueError("another tag")
    start = len(tag) + 1
    while value[start - 1] & 0x80:
        start += 1
    return value[start:]


def _split(body: bytes) -> list[bytes]:
    """The elements of a repeated length-delimited field 1."""
    items, position = [], 0
    while position < len(body):
        if body[position] != _ELEMENT[0]:
            raise ValueError("another element")
        length = shift = 0
        while True:
            position += 1
            length |= (body[position] & 0x7F) << shift
            shift += 7
            if body[position] < 0x80:
                break
        items.append(body[position + 1 : position + 1 + length])
        position += 1 + length
    return items
