"""The HMGET commands that read entities' hashes, built value by value for the few entities of one request."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stores.entity_keys import BYTES, INT32, INT64, STRING, UNIX_TIMESTAMP, EntityKeys
from stores.operations import bulk

_INT32 = struct.Struct("<IIi").pack
_INT64 = struct.Struct("<IIq").pack
_LENGTH = struct.Struct("<II").pack


def _text(value: str) -> bytes:
    data = value.encode()
    return _LENGTH(STRING, len(data)) + data


_PARTS: Mapping[int, Callable[[Any], bytes]] = {
    BYTES: lambda value: _LENGTH(BYTES, len(value)) + value,
    STRING: _text,
    INT32: lambda value: _INT32(INT32, 4, value),
    INT64: lambda value: _INT64(INT64, 8, value),
    UNIX_TIMESTAMP: lambda value: _INT64(UNIX_TIMESTAMP, 8, value),
}
"""Type, length and bytes of one join key's value inside an entity key (`stores.entity_keys`)."""


@dataclass(frozen=True, slots=True)
class HashRead:
    """Reads `fields` of the hashes that `codec` names; `columns` has the request's column of each of the codec's
    join keys, in their order, and none for a view without entities."""

    codec: EntityKeys
    columns: tuple[str, ...]
    fields: tuple[bytes, ...]

    @property
    def entityless(self) -> bool:
        """Whether there is one hash for all entities."""
        return not self.columns

    def keys(self, entities: Mapping[str, Sequence[Any]]) -> list[bytes]:
        """The names of the hashes; the values are of their join keys' types, timestamps in whole seconds.

        Raises `struct.error` and `UnicodeEncodeError` for a value that has no place in a key.
        """
        prefix, project = self.codec.prefix, self.codec.project
        if self.entityless:
            return [prefix + _text("") + project]
        types = [key.value_type for key in self.codec.join_keys]
        if len(types) == 1:
            part = _PARTS[types[0]]
            return [prefix + part(value) + project for value in entities[self.columns[0]]]
        parts = [
            [_PARTS[value_type](value) for value in entities[column]]
            for value_type, column in zip(types, self.columns, strict=True)
        ]
        return [prefix + b"".join(values) + project for values in zip(*parts, strict=True)]

    def unfit(self, entities: Mapping[str, Sequence[Any]]) -> list[str]:
        """The columns with a value that has no place in a key."""
        columns = zip(self.codec.join_keys, self.columns, strict=False)  # without entities there are none
        return [
            column
            for key, column in columns
            if not all(_fits(_PARTS[key.value_type], value) for value in entities[column])
        ]

    def commands(self, keys: Sequence[bytes], rest: bytes) -> list[bytes]:
        """One HMGET a hash of those names, packed; `rest` is `self.packed_fields()`, kept by whoever asks often."""
        start = b"*%d\r\n$5\r\nHMGET\r\n$" % (len(self.fields) + 2)
        return [b"%s%d\r\n%s\r\n%s" % (start, len(key), key, rest) for key in keys]

    def packed_fields(self) -> bytes:
        """The fields as arguments."""
        return b"".join(map(bulk, self.fields))


def _fits(part: Callable[[Any], bytes], value: Any) -> bool:
    try:
        part(value)
    except (struct.error, UnicodeEncodeError):
        return False
    return True
