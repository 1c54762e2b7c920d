"""Feast's stored values as what JSON can carry: the forms in which `feast serve` answers them.

Bytes are base64, timestamps whole seconds since 1970, numbers that JSON does not know are the strings "NaN",
"Infinity" and "-Infinity" (`feast.feature_server_utils`). A SCALAR_MAP, which Feast answers as null, is an object
with its keys in the same forms, as text. The common scalars have decoders of their own, a column
at a time; every other type of `feast.types.Value`, and a value that was stored as another type than declared, goes
through Feast's message.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

import numpy as np
from feast.feature_server_utils import _float_to_native, _value_to_native
from feast.protos.feast.types.Value_pb2 import MapKey, Value

from stores.binary import parse_varints
from stores.values import NO_TIMESTAMP

Stored = Sequence[bytes | None]
"""What one field holds in each of some hashes; None where it is absent, no bytes where it is null."""

Decoder = Callable[[Stored], list[Any]]

NULL_TIMESTAMP = Value(unix_timestamp_val=NO_TIMESTAMP).SerializeToString()
"""What Feast stores for a null timestamp that passed through pandas."""

BULK = 200
"""Values from which numbers are decoded by NumPy."""

KNOWN, SHORT = 50_000, 48
"""How many decoded values of a type are kept, and up to how many bytes each."""


def decoder(value_type: int) -> Decoder:
    """What turns stored values of a number of Feast's `ValueType` into JSON's; None and no bytes become None.

    A decoder raises `google.protobuf.message.DecodeError` for bytes that are no value of Feast's.
    """
    return _DECODERS.get(value_type, _ANY)


def _any(value: bytes) -> Any:
    """Any value, by Feast's own message."""
    message = Value.FromString(value)
    if not message.HasField("scalar_map_val"):
        return _value_to_native(message)
    return {_map_key(entry.key): _value_to_native(entry.value) for entry in message.scalar_map_val.val}


def _map_key(key: MapKey) -> str:
    """A key as text, as all keys in JSON are."""
    kind = key.WhichOneof("key")
    value = getattr(key, kind) if kind else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return b64encode(value).decode() if isinstance(value, bytes) else str(value)


class _Known(dict[bytes | None, Any]):
    """Stored values that were met before, decoded: a look costs a tenth of decoding, and features repeat."""

    def __init__(self, one: Callable[[bytes], Any]) -> None:
        super().__init__({None: None, b"": None})
        self._one = one

    def __missing__(self, value: bytes) -> Any:
        if not value:  # another thread has just cleared it
            return None
        decoded = self._one(value)
        if len(value) <= SHORT and not isinstance(decoded, list | dict):
            if len(self) >= KNOWN:
                self.clear()
                self.update({None: None, b"": None})
            self[value] = decoded
        return decoded


def _each(one: Callable[[bytes], Any]) -> Decoder:
    known = _Known(one).__getitem__

    def decode(values: Stored) -> list[Any]:
        return list(map(known, values))

    return decode


@lru_cache(maxsize=2 * BULK)
def _unpacker(code: str, count: int) -> Callable[[bytes], tuple[float, ...]]:
    """Unpacks so many values, fewer than `BULK`, that stand one after the other, each behind a tag of one byte."""
    return Struct("<" + f"x{code}" * count).unpack


def _floats(tag: bytes, code: str) -> Decoder:
    width = Struct(f"<x{code}").size
    single = Struct(f"<x{code}").unpack
    tagged = np.dtype([("tag", "u1"), ("value", f"<{code}")])

    def one(value: bytes) -> Any:
        if len(value) != width or value[:1] != tag:
            return _any(value)
        return _float_to_native(single(value)[0])

    each = _each(one)

    def decode(values: Stored) -> list[Any]:
        count = len(values)
        try:
            data = b"".join(values)  # type: ignore[arg-type]  # an absent one makes it raise
        except TypeError:
            return each(values)
        if len(data) != width * count or data[::width] != tag * count:
            return each(values)
        numbers = list(_unpacker(code, count)(data)) if count < BULK else np.frombuffer(data, tagged)["value"].tolist()
        total = sum(numbers)
        return numbers if total - total == 0.0 else [_float_to_native(number) for number in numbers]

    return decode


def _integers(tag: int, null: int | None = None) -> Decoder:
    """`null` is a number that stands for a null."""

    def one(value: bytes) -> Any:
        if value[0] != tag:
            return _any(value)
        number = value[1]
        if number >= 0x80:
            number &= 0x7F
            shift = 7
            for byte in value[2:]:
                number |= (byte & 0x7F) << shift
                shift += 7
            if number >= 1 << 63:
                number -= 1 << 64
        return None if number == null else number

    each = _each(one)

    def decode(values: Stored) -> list[Any]:
        if len(values) < BULK:
            return each(values)
        try:
            pairs = parse_varints(b"".join(values))[0]  # type: ignore[arg-type]  # an absent one makes it raise
        except (TypeError, ValueError):
            return each(values)
        if len(pairs) != 2 * len(values) or (pairs[::2] != tag).any():
            return each(values)
        numbers = pairs[1::2].view(np.int64)
        return each(values) if null is not None and (numbers == null).any() else numbers.tolist()

    return decode


def _text(tag: bytes) -> Decoder:
    start = len(tag) + 1

    def one(value: bytes) -> Any:
        # A length below 128 is one byte.
        if value[: start - 1] != tag or value[start - 1] != len(value) - start or len(value) - start > 0x7F:
            return _any(value)
        return str(value[start:], "utf-8")

    return _each(one)


def _bytes(value: bytes) -> Any:
    if value[0] != 0x0A or value[1] != len(value) - 2 or len(value) > 0x81:
        return _any(value)
    return b64encode(value[2:]).decode()


def _bool(value: bytes) -> Any:
    known = _BOOLS.get(value)
    return _any(value) if known is None else known


def _moments(value: bytes) -> Any:
    """A list or set of timestamps; a null in it is stored as the number that stands for one."""
    moments = _any(value)
    return [None if one == NO_TIMESTAMP else one for one in moments] if isinstance(moments, list) else moments


_BOOLS = {b"\x38\x00": False, b"\x38\x01": True}

_ANY = _each(_any)

_DECODERS: dict[int, Decoder] = {
    1: _each(_bytes),
    2: _text(b"\x12"),
    3: _integers(0x18),
    4: _integers(0x20),
    5: _floats(b"\x29", "d"),
    6: _floats(b"\x35", "f"),
    7: _each(_bool),
    8: _integers(0x40, NO_TIMESTAMP),
    18: _each(_moments),
    29: _each(_moments),
    30: _each(_bytes),
    31: _each(_bytes),
    32: _text(b"\x82\x02"),
    36: _text(b"\xa2\x02"),
    37: _text(b"\xaa\x02"),
    44: _text(b"\xe2\x02"),
}
"""By Feast's `ValueType`; the tags are those of `feast/types/Value.proto`."""
