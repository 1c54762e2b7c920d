"""Debezium's JSON envelopes to Arrow: in bulk (`streams.bulk`), record by record only to name a bad one.

The envelope is Debezium's (`op`, `before`, `after`, `source`), written without schemas; the encodings of
the values are those of `connectors.debezium`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from connectors.encodings import MICROSECONDS, Undecodable, decode, is_placeholder
from connectors.table import Column, Table
from streams.bulk import decode_in_bulk
from streams.changes import LSNS, META, Changes, carried, changes_schema
from streams.letters import Rejection, Stage
from streams.messages import Records

Envelope = dict[str, Any]
Values = dict[str, Any]

LOGICAL_MESSAGE = "m"

SHOWN = 80
"""Characters of a value that are told of it."""

_FIRST, _LAST = MICROSECONDS


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a `Records`: every record is a change, a rejection, or one of the counted ignored
    (tombstones and logical messages). `positions[i]` is the record that change `i` was."""

    changes: Changes
    positions: np.ndarray
    rejections: list[Rejection]
    ignored: int


@dataclass(frozen=True, slots=True)
class _Parsed:
    positions: list[int]
    envelopes: list[Envelope]
    images: list[Values]


def decode_records(records: Records, table: Table, before: Sequence[str], max_bytes: int) -> Decoded:
    """Decode one table's records.

    `before` names the columns whose old values are wanted. A record that is larger than `max_bytes`, is no
    envelope, has an unknown operation, a value of the wrong type or no primary key is a rejection that says
    so; the others go on. Old values reject nothing: what no column takes is null there, so that a row whose
    update was rejected can still be deleted or mended.
    """
    bulk = decode_in_bulk(records, table, before, max_bytes)
    if bulk is None:
        return _decode_each(records, table, before, max_bytes)
    changes, read = Changes(table, bulk.rows, bulk.before), len(bulk.positions) + len(bulk.odd)
    decoded = Decoded(changes, bulk.positions, [], len(records) - read)
    if not len(bulk.odd):
        return decoded
    return _merged(decoded, _decode_each(records.take(bulk.odd.tolist()), table, before, max_bytes), bulk.odd)


def _merged(most: Decoded, rest: Decoded, places: np.ndarray) -> Decoded:
    """Both in one; record `i` of the rest stood at `places[i]`."""
    rejections = [replace(rejection, position=int(places[rejection.position])) for rejection in rest.rejections]
    ignored = most.ignored + rest.ignored
    if not len(rest.changes):
        return Decoded(most.changes, most.positions, rejections, ignored)
    positions = np.concatenate([most.positions, places[rest.positions]])
    order = np.argsort(positions)
    rows, old = pa.concat_tables([most.changes.rows, rest.changes.rows]), None
    if most.changes.before is not None and rest.changes.before is not None:
        old = pa.concat_tables([most.changes.before, rest.changes.before])
    changes = Changes(most.changes.table, rows, old).take(order)
    return Decoded(changes, positions[order], rejections, ignored)


def _decode_each(records: Records, table: Table, before: Sequence[str], max_bytes: int) -> Decoded:
    rejections: list[Rejection] = []
    present = [i for i, value in enumerate(records.values) if value is not None]
    small = [i for i in present if len(records.values[i] or b"") <= max_bytes]
    if len(small) < len(present):
        too_large = set(present) - set(small)
        rejections += [_too_large(i, records.values[i], max_bytes) for i in sorted(too_large)]
    parsed = _parse(records, small, rejections)
    ignored = len(records) - len(parsed.positions) - len(rejections)
    bad: dict[int, tuple[Stage, list[str]]] = {}
    rows = _rows(records, parsed, table, bad)
    old = _before(parsed, table, before) if before else None
    rejections += [Rejection(parsed.positions[i], stage, tuple(why)) for i, (stage, why) in bad.items()]
    good = np.delete(np.arange(len(parsed.positions)), list(bad))
    changes = Changes(table, rows, old)
    positions = np.array(parsed.positions, np.int64)[good]
    return Decoded(changes.take(good) if bad else changes, positions, rejections, ignored)


def _too_large(position: int, value: bytes | None, max_bytes: int) -> Rejection:
    why = f"record of {len(value or b''):,} bytes is larger than worker.max_record_bytes ({max_bytes:,})"
    return Rejection(position, "decode", (why,))


def _parse(records: Records, positions: list[int], rejections: list[Rejection]) -> _Parsed:
    """The readable envelopes among the records at `positions`, with the row image of each."""
    # One by one: joined into a list they would be read hardly faster, and bad ones could make good ones together.
    parsed = _Parsed([], [], [])
    for i in positions:
        try:
            envelope = orjson.loads(records.values[i] or b"")
            image = row_image(envelope, records.keys[i])
        except orjson.JSONDecodeError as error:
            rejections.append(Rejection(i, "decode", (f"not JSON: {error}",)))
        except NotAnEnvelope as error:
            rejections.append(Rejection(i, "decode", (str(error),)))
        else:
            if image is not None:
                parsed.positions.append(i)
                parsed.envelopes.append(envelope)
                parsed.images.append(image)
    return parsed


class NotAnEnvelope(Exception):
    """A record that is JSON but not a Debezium envelope; the text says what is wrong."""


def row_image(envelope: Any, key: bytes | None) -> Values | None:
    """The row that an envelope is about: new values, or of a delete the record's key and the old ones.

    Of a truncate it is empty, of a logical message None. Raises `NotAnEnvelope`, also if `source.lsn` is not in `LSNS`
    (of a row that a snapshot read it may be None) or `source.ts_us` not within `MICROSECONDS`.
    """
    try:
        op, source, before = envelope["op"], envelope["source"], envelope.get("before")
        if op in ("c", "u", "r"):
            image = envelope["after"]
        elif op == "d":
            image = {**(before or {}), **_key(key)}
        elif op == "t":
            image = {}
        elif op == LOGICAL_MESSAGE:
            return None
        else:
            raise NotAnEnvelope(f"unknown operation {op!r}: Debezium's are c, u, d, r, t and m")
        lsn, moment = source["lsn"], source["ts_us"]
        placed = type(lsn) is int or (op == "r" and lsn is None)  # see `streams.snapshots`
        if type(image) is not dict or not placed or type(moment) is not int:
            raise NotAnEnvelope("not a Debezium envelope: no row image, or source.lsn or source.ts_us is no number")
        if before is not None and type(before) is not dict:
            raise NotAnEnvelope("not a Debezium envelope: before is no row image")
        if lsn is not None and lsn not in LSNS:
            raise NotAnEnvelope("not a Debezium envelope: source.lsn is not from 0 to 2^63 - 1")
        if not _FIRST <= moment <= _LAST:
            raise NotAnEnvelope("not a Debezium envelope: source.ts_us is not in the years 1 to 9999")
        return image
    except (KeyError, TypeError, AttributeError) as error:
        raise NotAnEnvelope(f"not a Debezium envelope: {type(error).__name__} {error}") from error


def _key(key: bytes | None) -> Values:
    try:
        values = orjson.loads(key or b"")
    except orjson.JSONDecodeError as error:
        raise NotAnEnvelope(f"a delete whose key is not JSON: {error}") from error
    if type(values) is not dict:
        raise NotAnEnvelope("a delete whose key is no JSON object")
    return values


def _rows(records: Records, parsed: _Parsed, table: Table, bad: dict[int, tuple[Stage, list[str]]]) -> pa.Table:
    ops = [e["op"] for e in parsed.envelopes]
    deletes = [i for i, op in enumerate(ops) if op == "d"]
    columns = [
        _column(
            table.column(field.name),
            [image.get(field.name) for image in parsed.images],
            parsed,
            bad,
            () if field.name in table.primary_key else deletes,
        )
        for field in carried(table)
    ]
    for name in table.primary_key:
        _require_key(name, parsed.images, ops, bad)
    meta = [
        pa.array(ops, pa.string()),
        pa.array([e["source"]["lsn"] or 0 for e in parsed.envelopes], pa.int64()),
        pa.array([e["source"]["ts_us"] for e in parsed.envelopes], pa.int64()).cast(META[2].type),
        pa.array([records.partitions[i] for i in parsed.positions], pa.int32()),
        pa.array([records.offsets[i] for i in parsed.positions], pa.int64()),
    ]
    return pa.table([*columns, *meta], schema=changes_schema(table))


def _before(parsed: _Parsed, table: Table, names: Sequence[str]) -> pa.Table:
    images = [e.get("before") or {} for e in parsed.envelopes]
    old = range(len(images))
    arrays = [_decode(table.column(name), [b.get(name) for b in images], {}, old) for name in names]
    return pa.table(arrays, names=list(names))


def _column(
    column: Column,
    values: list[Any],
    parsed: _Parsed,
    bad: dict[int, tuple[Stage, list[str]]],
    old: Collection[int],
) -> pa.Array:
    """Decode one column, after putting the old value where Debezium sent only its placeholder. `old` are the
    positions that hold old values."""
    if column.toastable:
        mask = is_placeholder(values, column)
        if mask is not None and mask.true_count:
            for i in np.flatnonzero(mask.to_numpy(zero_copy_only=False)):
                _restore(int(i), column, values, parsed, bad)
    return _decode(column, values, bad, old)


def _restore(
    i: int, column: Column, values: list[Any], parsed: _Parsed, bad: dict[int, tuple[Stage, list[str]]]
) -> None:
    before = parsed.envelopes[i].get("before") or {}
    old = before.get(column.name)
    mask = is_placeholder([old], column)
    # An unchanged TOASTed value is never null: null is what Debezium fills in for a column outside of the identity.
    missing = old is None or (mask is not None and mask.true_count > 0)
    if missing and parsed.envelopes[i]["op"] != "d":
        why = (
            f"column {column.name}: PostgreSQL did not send the unchanged TOASTed value; "
            "set REPLICA IDENTITY FULL on the table (millrace apply does, where it owns it)"
        )
        bad.setdefault(i, ("decode", []))[1].append(why)
    values[i] = None if missing else old


def _decode(
    column: Column, values: list[Any], bad: dict[int, tuple[Stage, list[str]]], old: Collection[int]
) -> pa.Array:
    """The values, null where the column does not take one; which is a reason unless it is an `old` one."""
    try:
        return decode(values, column)
    except Undecodable as error:
        wrong = {i: f"column {column.name} ({column.sql_type}): {_short(v)}: {reason}" for i, v, reason in error.bad}
        for i in wrong.keys() - set(old):
            bad.setdefault(i, ("schema", []))[1].append(wrong[i])
        return decode([None if i in wrong else value for i, value in enumerate(values)], column)


def _require_key(name: str, images: list[Values], ops: list[str], bad: dict[int, tuple[Stage, list[str]]]) -> None:
    for i, image in enumerate(images):
        if image.get(name) is None and ops[i] != "t":
            bad.setdefault(i, ("schema", []))[1].append(f"column {name}: the primary key is missing or null")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
