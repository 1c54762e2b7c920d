"""The names of a view's fields inside an entity's hash in Redis: Feast's layout, and one field of our own."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import mmh3

from stores.entity_keys import entity_keys
from stores.errors import StoreRefused
from stores.view import View


@dataclass(frozen=True, slots=True)
class Fields:
    """One view's field names; `features` in the order of `View.features`."""

    version: bytes
    timestamp: bytes
    features: tuple[bytes, ...]

    def every(self) -> tuple[bytes, ...]:
        """All of them."""
        return (self.version, self.timestamp, *self.features)


def fields_of(view: View) -> Fields:
    """The fields of a view: `_ts:{view}` and one a feature as Feast has them, and `_v:{view}`."""
    name = view.online_name
    features = tuple(_feature_field(name, feature.name) for feature in view.features)
    return Fields(f"_v:{name}".encode(), f"_ts:{name}".encode(), features)


@lru_cache(maxsize=65_536)
def _feature_field(online_name: str, feature: str) -> bytes:
    """murmur3_32 of `{view}:{feature}`, four bytes, little-endian (Feast's `helpers._mmh3`)."""
    return struct.pack("<I", mmh3.hash(f"{online_name}:{feature}", signed=False))


def check_collisions(views: Iterable[View]) -> None:
    """Raises `StoreRefused`, naming both, if two fields of the views would be one in Redis.

    Feast names a feature's field by 32 bits of a hash, and all views with the same join keys share an
    entity's hash; a collision would make one feature overwrite the other without a sign.
    """
    owners: dict[tuple[bytes, tuple[int, ...], bytes], str] = {}
    for view in views:
        keys = entity_keys(view)
        hash_of = (keys.prefix + keys.project, tuple(key.value_type for key in keys.join_keys))
        fields = fields_of(view)
        labels = [
            f"the version of {view.name!r}",
            f"the timestamp of {view.name!r}",
            *(f"'{view.name}:{feature.name}'" for feature in view.features),
        ]
        for field, label in zip(fields.every(), labels, strict=True):
            other = owners.setdefault((*hash_of, field), label)
            if other != label:
                raise StoreRefused(
                    f"{other} and {label} have the same field 0x{field.hex()} in Redis and would overwrite "
                    "each other; rename one of the two"
                )
