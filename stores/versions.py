"""The version of what Redis holds of an entity and view: which change of which source row it came from."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stores.binary import Bytes2D, contiguous, numbers
from stores.errors import StoreRefused
from stores.view import View

LEAST_ORDER = -(2**63)
"""The order of a delete in an event view: below every event time."""

NO_ROW = bytes(16)
"""The row in a version of a state view, where the entity is the row."""

WIDTH = 33
"""Bytes of a packed version; a tombstone goes on with the delete's event time."""

VERSION: tuple[pa.Field, ...] = (
    pa.field("_order", pa.int64()),
    pa.field("_lsn", pa.int64()),
    pa.field("_row", pa.binary(16)),
    pa.field("_undecided", pa.bool_()),
)
"""The columns that tell of a stored version."""

_BIAS = 2**63


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Compared by (order, lsn, row): order is 0 in a state view, the event time in microseconds in an
    event view (`LEAST_ORDER` for a delete); `row` has 16 bytes."""

    order: int
    lsn: int
    row: bytes

    def yields_to(self, other: "Version", deleted: bool) -> bool:
        """Whether a change of version `other` applies where this version is stored: the rule of
        `stores.rows.FeatureWriter`."""
        if other.row == self.row:
            return other.lsn >= self.lsn
        return not deleted and other > self


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of some rows of a view, a column each; `rows` has shape (n, 16)."""

    orders: npt.NDArray[np.int64]
    lsns: npt.NDArray[np.int64]
    rows: Bytes2D
    deleted: npt.NDArray[np.bool_]

    def pack(self, places: npt.NDArray[np.int64], undecided: bool) -> Bytes2D:
        """The versions at those places as they are stored, with that mark; shape (len(places), `WIDTH`)."""
        packed = np.empty((len(places), WIDTH), np.uint8)
        biased = self.orders[places].view(np.uint64) ^ np.uint64(_BIAS)
        packed[:, :8] = biased.astype(">u8").view(np.uint8).reshape(-1, 8)
        packed[:, 8:16] = self.lsns[places].astype(">i8").view(np.uint8).reshape(-1, 8)
        packed[:, 16:32] = self.rows[places]
        packed[:, 32] = undecided
        return packed


def versions(view: View, table: pa.Table) -> Versions:
    """The versions of a table of schema `stores.rows.rows_schema(view)`; a null counts as zero."""
    deleted = contiguous(table.column("_deleted")).fill_null(False).to_numpy(zero_copy_only=False)
    lsns = numbers(contiguous(table.column("_lsn")).fill_null(0), "<i8")
    if view.kind == "state":
        return Versions(np.zeros(len(lsns), np.int64), lsns, np.zeros((len(lsns), 16), np.uint8), deleted)
    event_times = numbers(contiguous(table.column("event_timestamp")).cast(pa.int64()).fill_null(0), "<i8")
    row = contiguous(table.column("_row")).fill_null(NO_ROW)
    rows = numbers(row, "V16").view(np.uint8).reshape(-1, 16)
    return Versions(np.where(deleted, LEAST_ORDER, event_times), lsns, rows, deleted)


def unpack(stored: bytes) -> tuple[Version, bool]:
    """A stored version or tombstone, and whether its entity is undecided. Raises `StoreRefused` if it is none."""
    if len(stored) < WIDTH:
        raise StoreRefused(
            f"a field _v:... in Redis holds {len(stored)} bytes that are no version: something else wrote it. Delete "
            "such fields and run millrace backfill"
        )
    order, lsn, row, flags = struct.unpack_from(">QQ16sB", stored)
    return Version(order - _BIAS, lsn, row), flags == 1


def surviving(
    versions: Versions, entities: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of all changes of one source row of an entity, the one with the greatest lsn, the last if several.

    `entities` numbers the entity of each change. Returns the places of those that survive, in their
    order, and how many changes each of them stands for. The others cannot matter: each would be
    overwritten or refused within the batch.
    """
    buffer = pa.py_buffer(np.ascontiguousarray(versions.rows))
    rows = pc.dictionary_encode(pa.Array.from_buffers(pa.binary(16), len(entities), [None, buffer]))
    groups = entities * len(rows.dictionary) + rows.indices.to_numpy()
    order = np.lexsort((versions.lsns, groups))
    ends = np.flatnonzero(np.diff(groups[order], append=-1))
    survivors, counts = order[ends], np.diff(ends, prepend=-1)
    back = np.argsort(survivors)
    return survivors[back], counts[back]
