"""A poll decoded in bulk is what it is record by record: the same rows, the same rejections."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.encodings import PLACEHOLDER
from connectors.table import Column, Table
from streams.bulk import LEAST, decode_in_bulk
from streams.decode import Decoded, decode_records
from streams.messages import Records
from tests.property.test_encodings import TYPES

LIMIT = 10_000
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
COLUMNS = tuple(
    Column(name, name, column.arrow_type, column.encoding, True, column.element, toastable=name in ("text", "text[]"))
    for name, (column, _, _) in TYPES.items()
)
TABLE = Table(
    "shop",
    "public",
    "things",
    "shop.public.things",
    (Column("id", "bigint", pa.int64(), "plain", False), *COLUMNS),
    ("id",),
)
BEFORE = ("text", "double")


@st.composite
def images(draw: st.DrawFn) -> dict[str, Any]:
    image: dict[str, Any] = {"id": draw(st.integers(0, 5)), "unknown": [1]}
    for name, (_, values, written) in TYPES.items():
        value = draw(st.none() | values)
        if draw(st.integers(0, 9)):
            image[name] = None if value is None else written(value)
    return image


@st.composite
def envelopes(draw: st.DrawFn) -> bytes | None:
    if not draw(st.integers(0, 20)):
        return None
    op = draw(st.sampled_from("ccuuurdt"))
    before = draw(images()) if op in "ud" else None
    after = draw(images()) if op in "cur" else None
    if op == "u" and not draw(st.integers(0, 4)):
        assert after is not None and before is not None
        after["text"], before["text"] = PLACEHOLDER, "what it was"
    source = {"lsn": draw(st.integers(0, 2**63 - 1)), "ts_us": draw(st.integers(FIRST, LAST)), "table": "things"}
    return orjson.dumps({"before": before, "after": after, "source": source, "op": op, "ts_ms": 1})


BAD = [
    b"{oops",
    b"",
    b"{}",
    b"{}{}",
    b"[1]",
    b'{"op":"c","after":{"id":1},"source":{"lsn":null,"ts_us":1}}',
    b'{"op":"c","after":null,"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"c","after":{"id":null},"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"c","after":{"id":1.5},"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"c","after":{"id":1,"double":NaN},"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"c","after":{"id":1,"double":"NaN"},"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"c","after":{"id":1,"text":"\xff"},"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"c","after":{"id":1,"text":"\\ud800"},"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"c","after":{"id":1,"text":"' + b"x" * LIMIT + b'"},"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"d","before":null,"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"x","after":{"id":1},"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"m","source":{"lsn":1,"ts_us":1}}',
    b'{"op":"u","before":null,"after":{"id":1,"text":"' + PLACEHOLDER.encode() + b'"},"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"u","before":{"id":1,"text":null},"after":{"id":1,"text":"'
    + PLACEHOLDER.encode()
    + b'"},"source":{"lsn":1,"ts_us":1}}',
    b'{"op":"c","after":',
    b'{"id":1},"source":{"lsn":1,"ts_us":1}}',
    *(b'{"op":"c","after":{"id":1},"source":{"lsn":%d,"ts_us":1}}' % lsn for lsn in (2**63, 2**64, -1, -(2**63) - 1)),
    *(
        b'{"op":"r","after":{"id":1},"source":{"lsn":1,"ts_us":%d}}' % moment
        for moment in (2**63, -(2**63) - 1, 2**63 - 1, LAST + 1, FIRST - 1)
    ),
    *(
        b'{"op":"%b","before":%b,"after":%b,"source":{"lsn":1,"ts_us":1}}' % (op, before, after)
        for before in (b'"x"', b"[1]", b"[]", b"1", b"false")
        for op, after in (
            (b"u", b'{"id":1,"text":"' + PLACEHOLDER.encode() + b'"}'),
            (b"u", b'{"id":1}'),
            (b"d", b"null"),
        )
    ),
]


def records(values: list[bytes | None], start: int = 0) -> Records:
    keys = [b'{"id":1}' if value is None else _key(value) for value in values]
    count = range(start, start + len(values))
    return Records(TABLE.topic, [i % 3 for i in count], list(count), keys, values)


def _key(value: bytes) -> bytes:
    try:
        envelope = orjson.loads(value)
        image = envelope.get("after") or envelope["before"]
        return orjson.dumps({"id": image["id"]}) if image else b'{"id":1}'
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return b'{"id":1}'


def one_by_one(values: list[bytes | None], before: Sequence[str]) -> list[Decoded]:
    return [decode_records(records([value], i), TABLE, before, LIMIT) for i, value in enumerate(values)]


def assert_same(values: list[bytes | None], before: Sequence[str] = BEFORE) -> None:
    together, alone = decode_records(records(values), TABLE, before, LIMIT), one_by_one(values, before)
    rows = pa.concat_tables([one.changes.rows for one in alone])
    assert together.changes.rows.schema == rows.schema
    np.testing.assert_equal(together.changes.rows.to_pydict(), rows.to_pydict())
    if before:
        assert together.changes.before is not None
        old = pa.concat_tables([one.changes.before for one in alone if one.changes.before is not None])
        np.testing.assert_equal(together.changes.before.to_pydict(), old.to_pydict())
    assert together.positions.tolist() == [i for i, one in enumerate(alone) if len(one.changes)]
    assert together.ignored == sum(one.ignored for one in alone)
    bad = {i: one.rejections[0] for i, one in enumerate(alone) if one.rejections}
    assert {r.position: (r.stage, r.reasons) for r in together.rejections} == {
        i: (r.stage, r.reasons) for i, r in bad.items()
    }


@given(st.lists(envelopes(), min_size=1, max_size=12))
@settings(max_examples=35)
def test_good_records(values: list[bytes | None]) -> None:
    assert_same(values * (LEAST // len(values) + 2))


@given(st.lists(envelopes(), min_size=1, max_size=6), st.lists(st.sampled_from(BAD), min_size=1, max_size=4), st.data())
@settings(max_examples=35)
def test_bad_records_among_good_ones(values: list[bytes | None], bad: list[bytes], data: st.DataObject) -> None:
    mixed = values * (LEAST // len(values) + 2)
    for one in bad:
        mixed.insert(data.draw(st.integers(0, len(mixed))), one)
    assert_same(mixed)


@pytest.mark.parametrize(
    "parts",
    [
        (b'{"op":"c","after":{"id":1,"x":[{}', b'{}]},"source":{"lsn":1,"ts_us":1}}'),
        (b'{"op":"c","after":{"id":1,"text":"}', b'{"},"source":{"lsn":1,"ts_us":1}}'),
    ],
)
@pytest.mark.parametrize("between", [b"", b",", b"\n"])
def test_bad_records_make_no_good_one_together(parts: tuple[bytes, bytes], between: bytes) -> None:
    good = b'{"op":"c","after":{"id":1},"source":{"lsn":1,"ts_us":1}}'
    decoded = decode_records(records([*[good] * LEAST, *parts, good + between + good]), TABLE, BEFORE, LIMIT)
    assert decoded.positions.tolist() == list(range(LEAST))
    assert [rejection.position for rejection in decoded.rejections] == [LEAST, LEAST + 1, LEAST + 2]


@pytest.mark.parametrize("before", [(), BEFORE])
@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_bad_record_is_as_bad_among_many(bad: bytes, before: Sequence[str]) -> None:
    good = b'{"op":"c","after":{"id":1},"source":{"lsn":1,"ts_us":1}}'
    alone = decode_records(records([bad], LEAST), TABLE, before, LIMIT)
    among = decode_records(records([*[good] * LEAST, bad]), TABLE, before, LIMIT)
    assert among.ignored == alone.ignored
    assert [r.reasons for r in among.rejections] == [r.reasons for r in alone.rejections]
    np.testing.assert_equal(among.changes.rows.slice(LEAST).to_pylist(), alone.changes.rows.to_pylist())


@pytest.mark.parametrize("operation", ["c", "u", "d", "t"])
def test_ordinary_records_need_no_second_look(operation: str) -> None:
    image = {
        name: written(2) if name in ("smallint", "integer", "bigint") else None
        for name, (_, _, written) in TYPES.items()
    }
    row = {"id": 1, **image, "text": "ä"}
    envelope = {
        "op": operation,
        "before": row if operation in "ud" else None,
        "after": row if operation in "cu" else None,
        "source": {"lsn": 1, "ts_us": 1},
    }
    bulk = decode_in_bulk(records([orjson.dumps(envelope)] * LEAST), TABLE, BEFORE, LIMIT)
    assert bulk is not None
    assert bulk.rows["text"].to_pylist() == [None if operation == "t" else "ä"] * LEAST


@pytest.mark.parametrize("good", [b"1.5", b'"NaN"'])
def test_floats_that_json_has_no_number_for_need_no_second_look(good: bytes) -> None:
    ordinary = b'{"op":"c","after":{"id":1,"text":"\\"double\\":\\"NaN\\"","double":%b},"source":{"lsn":1,"ts_us":1}}'
    values: list[bytes | None] = [ordinary % good] * LEAST
    values[3:6] = [ordinary % b'"NaN"', ordinary % b'"Infinity"', ordinary % b'"-Infinity"']
    bulk = decode_in_bulk(records(values), TABLE, BEFORE, LIMIT)
    assert bulk is not None and not len(bulk.odd)
    np.testing.assert_equal(bulk.rows["double"].to_pylist()[3:6], [float("nan"), float("inf"), float("-inf")])
    assert bulk.rows["text"].to_pylist() == ['"double":"NaN"'] * LEAST
    assert_same(values)


FLOATS = [b"9007199254740993", b"-9007199254740993", b"18446744073709551615", b"-9223372036854775808", b"1" + b"0" * 25]
FLOATS += [b"-0", b"-0.0", b"-0e1", b"0", b"true", b"1" + b"0" * 400]


@pytest.mark.parametrize("written", FLOATS)
@pytest.mark.parametrize("name", ["double", "real", "vector"])
def test_a_float_is_the_same_among_many(name: str, written: bytes) -> None:
    value = b"[1.5,%b]" % written if name == "vector" else written
    one = b'{"op":"u","before":{"%b":%b},"after":{"id":1,"%b":%b},"source":{"lsn":1,"ts_us":1}}'
    good = b'{"op":"c","after":{"id":1,"vector":[-0.0]},"source":{"lsn":1,"ts_us":1}}'
    record = one % (name.encode(), value, name.encode(), value)
    before = () if name == "vector" else (name,)
    alone = decode_records(records([record], LEAST), TABLE, before, LIMIT)
    among = decode_records(records([*[good] * LEAST, record]), TABLE, before, LIMIT)
    assert [r.reasons for r in among.rejections] == [r.reasons for r in alone.rejections]
    assert repr(among.changes.rows.slice(LEAST).to_pylist()) == repr(alone.changes.rows.to_pylist())
    if before and among.changes.before is not None and alone.changes.before is not None:
        assert repr(among.changes.before.slice(LEAST).to_pylist()) == repr(alone.changes.before.to_pylist())
    assert bool(alone.rejections) == (written == b"true" or len(written) > 400)


ODD = {
    "no JSON": b"oops",
    "too large": b'{"op":"c","after":{"id":1,"text":"' + b"x" * LIMIT + b'"},"source":{"lsn":1,"ts_us":1}}',
    "an unknown operation": b'{"op":"x","after":{"id":1},"source":{"lsn":1,"ts_us":1}}',
    "a logical message": b'{"op":"m","source":{"lsn":1,"ts_us":1}}',
    "no key": b'{"op":"c","after":{"id":null},"source":{"lsn":1,"ts_us":1}}',
    "no position": b'{"op":"c","after":{"id":1},"source":{"lsn":null,"ts_us":1}}',
    "no numeric(10,2)": b'{"op":"c","after":{"id":1,"numeric":"NAN"},"source":{"lsn":1,"ts_us":1}}',
    "too many digits": b'{"op":"c","after":{"id":1,"numeric":"12345678901234567890123456789.00"},'
    b'"source":{"lsn":1,"ts_us":1}}',
    "an infinite date": b'{"op":"c","after":{"id":1,"date":2147483647},"source":{"lsn":1,"ts_us":1}}',
    "an infinite time": b'{"op":"c","after":{"id":1,"timestamptz":"294247-01-10T04:00:54.775807Z"},'
    b'"source":{"lsn":1,"ts_us":1}}',
    "a bare NaN": b'{"op":"c","after":{"id":1,"double":NaN},"source":{"lsn":1,"ts_us":1}}',
    "a bare infinity": b'{"op":"c","after":{"id":1,"real":-Infinity},"source":{"lsn":1,"ts_us":1}}',
    "a number beyond a double": b'{"op":"c","after":{"id":1,"double":1' + b"0" * 400 + b"},"
    b'"source":{"lsn":1,"ts_us":1}}',
    "an unsent TOASTed value": b'{"op":"u","before":null,"after":{"id":1,"text":"' + PLACEHOLDER.encode() + b'"},'
    b'"source":{"lsn":1,"ts_us":1}}',
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_record_is_looked_at_alone(name: str) -> None:
    good = b'{"op":"c","after":{"id":1,"date":1,"numeric":"1.50"},"source":{"lsn":1,"ts_us":1}}'
    values: list[bytes | None] = [None, *[good] * LEAST]
    for place in (1, 7, LEAST):
        values.insert(place, ODD[name])
    bulk = decode_in_bulk(records(values), TABLE, BEFORE, LIMIT)
    assert bulk is not None and bulk.odd.tolist() == [1, 7, LEAST]
    assert_same(values)
