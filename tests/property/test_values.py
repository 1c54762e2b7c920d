"""Stored values, timestamps and entity keys are byte for byte what Feast itself makes of them."""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.entity_keys import check_key_type, entity_keys
from stores.values import (
    NO_TIMESTAMP,
    arrow_type_of,
    decode,
    decode_timestamps,
    encode,
    encode_each,
    encode_each_timestamp,
    encode_timestamps,
)
from stores.view import Feature, View

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
seconds = st.integers(-(2**31), 2**33).map(lambda second: EPOCH + timedelta(seconds=second))
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
).map(json.dumps)

SCALARS: dict[ValueType, st.SearchStrategy[Any]] = {
    ValueType.BYTES: st.binary(max_size=300),
    ValueType.STRING: st.text(max_size=200),
    ValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    ValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    ValueType.DOUBLE: st.floats(allow_nan=False),
    ValueType.FLOAT: st.floats(width=32, allow_nan=False),
    ValueType.BOOL: st.booleans(),
    ValueType.UNIX_TIMESTAMP: seconds,
    ValueType.PDF_BYTES: st.binary(max_size=20),
    ValueType.IMAGE_BYTES: st.binary(max_size=20),
    ValueType.JSON: documents,
    ValueType.UUID: st.uuids().map(str),
    ValueType.TIME_UUID: st.uuids().map(str),
    ValueType.DECIMAL: st.decimals(allow_nan=False, allow_infinity=False).map(str),
}
LISTS = {
    ValueType[f"{element.name}_LIST"]: strategy
    for element, strategy in SCALARS.items()
    if element not in (ValueType.PDF_BYTES, ValueType.IMAGE_BYTES)
}
ALL = {
    **SCALARS,
    **{kind: st.lists(element | st.none(), max_size=5) for kind, element in LISTS.items()},
}


def feast_bytes(values: list[Any], kind: ValueType) -> list[bytes]:
    """What Feast stores of the values."""
    if kind.name.endswith("BYTES"):
        # Feast takes a column for empty in which no value has any bytes.
        return [proto.SerializeToString() for proto in python_values_to_proto_values([b"x", *values], kind)][1:]
    return [proto.SerializeToString() for proto in python_values_to_proto_values(values, kind)]


def stored_bytes(column: pa.Array | pa.ChunkedArray, kind: ValueType) -> list[bytes]:
    """What we store of the column."""
    return encode(column, kind.value).fill_null(b"").to_pylist()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
@settings(max_examples=20)
@given(data=st.data())
def test_every_type_is_stored_as_feast_stores_it(kind: ValueType, data: st.DataObject) -> None:
    values = data.draw(st.lists(ALL[kind] | st.none(), max_size=8))
    column = pa.array(values, arrow_type_of(kind.value))
    assert stored_bytes(column, kind) == feast_bytes(values, kind)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
@settings(max_examples=12)
@given(data=st.data())
def test_every_type_is_read_back(kind: ValueType, data: st.DataObject) -> None:
    strategy = st.lists(LISTS[kind], max_size=5) if kind in LISTS else ALL[kind]
    values = data.draw(st.lists(strategy | st.none(), max_size=8))
    column = pa.array(values, arrow_type_of(kind.value))
    assert decode(feast_bytes(values, kind), kind.value).equals(column)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
@settings(max_examples=6)
@given(data=st.data())
def test_slices_and_chunks_are_stored_alike(kind: ValueType, data: st.DataObject) -> None:
    values = data.draw(st.lists(ALL[kind] | st.none(), min_size=2, max_size=8))
    column, start = pa.array(values, arrow_type_of(kind.value)), data.draw(st.integers(0, len(values)))
    whole = stored_bytes(column, kind)
    assert stored_bytes(column.slice(start), kind) == whole[start:]
    chunked = pa.chunked_array([column.slice(0, start), column.slice(start)])
    assert stored_bytes(chunked, kind) == whole
    assert [value or b"" for value in encode_each(chunked, kind.value)] == whole


@settings(max_examples=30)
@given(st.lists(moments, min_size=1, max_size=8))
def test_a_timestamp_is_rounded_down_as_feast_rounds_a_column(values: list[datetime]) -> None:
    kind = ValueType.UNIX_TIMESTAMP
    column = pa.array(values, arrow_type_of(kind.value))
    assert stored_bytes(column, kind) == feast_bytes(column.to_numpy(zero_copy_only=False), kind)
    back = decode(stored_bytes(column, kind), kind.value).to_pylist()
    assert back == [value.replace(microsecond=0) for value in values]


def test_what_feast_stores_for_a_missing_timestamp_is_null() -> None:
    stored = Value(unix_timestamp_val=NO_TIMESTAMP).SerializeToString()
    assert decode([stored, b"", None], ValueType.UNIX_TIMESTAMP.value).to_pylist() == [None, None, None]


@pytest.mark.parametrize("kind", [ValueType.DOUBLE, ValueType.FLOAT], ids=lambda kind: kind.name)
def test_not_a_number_is_a_value_and_no_null(kind: ValueType) -> None:
    column = pa.array([math.nan, None, math.inf, -math.inf, -0.0], arrow_type_of(kind.value))
    stored = stored_bytes(column, kind)
    proto = Value.FromString(stored[0])
    assert proto.WhichOneof("val") == f"{kind.name.lower()}_val"
    assert math.isnan(getattr(proto, f"{kind.name.lower()}_val"))
    back = decode(stored, kind.value)
    assert back.is_null().to_pylist() == [False, True, False, False, False]
    assert back[2:].to_pylist() == [math.inf, -math.inf, 0.0]


def test_a_value_of_another_type_is_told_from_the_declared_one() -> None:
    examples = {
        kind: feast_bytes([value], kind)[0]
        for kind, value in {
            ValueType.BYTES: b"ab",
            ValueType.STRING: "ab",
            ValueType.INT32: 3,
            ValueType.INT64: 300,
            ValueType.DOUBLE: 1.5,
            ValueType.FLOAT: 1.5,
            ValueType.BOOL: True,
            ValueType.UNIX_TIMESTAMP: EPOCH,
            ValueType.JSON: "{}",
            ValueType.UUID: "u",
            ValueType.DECIMAL: "1.5",
            ValueType.STRING_LIST: ["a"],
            ValueType.INT64_LIST: [1, 300],
            ValueType.DOUBLE_LIST: [1.5],
        }.items()
    }
    for stored_kind, stored in examples.items():
        for kind in examples:
            if kind == stored_kind:
                assert decode([stored], kind.value).null_count == 0
            else:
                with pytest.raises(ValueError, match=f"declared type {kind.name}"):
                    decode([stored, examples[kind]], kind.value)


@pytest.mark.parametrize("kind", [ValueType.MAP, ValueType.STRUCT, ValueType.INT64_SET, ValueType.UNKNOWN])
def test_a_type_that_cannot_be_carried_is_refused(kind: ValueType) -> None:
    with pytest.raises(ValueError, match=f"value type {kind.value} cannot be carried"):
        arrow_type_of(kind.value)


@settings(max_examples=30)
@given(st.lists(moments | seconds, max_size=8))
def test_event_times_are_stored_as_feast_stores_them(values: list[datetime]) -> None:
    expected = []
    for value in values:
        stamp = Timestamp()
        stamp.FromDatetime(value)
        expected.append(stamp.SerializeToString())
    column = pa.array(values, pa.timestamp("us", tz="UTC"))
    assert encode_timestamps(column).to_pylist() == expected
    assert encode_each_timestamp(column) == expected
    assert decode_timestamps([*expected, None]).to_pylist() == [*values, None]


KEY_TYPES = [ValueType.STRING, ValueType.BYTES, ValueType.INT32, ValueType.INT64, ValueType.UNIX_TIMESTAMP]
names = st.text(st.characters(categories=["L", "N"], include_characters="_"), min_size=1, max_size=12)


def key_view(join_keys: dict[str, ValueType], project: str = "prod") -> View:
    keys = tuple(Feature(name, kind.value, arrow_type_of(kind.value)) for name, kind in join_keys.items())
    return View(project, "v", "v", "state", keys, ())


@settings(max_examples=40)
@given(data=st.data())
def test_entity_keys_are_those_of_feast(data: st.DataObject) -> None:
    join_keys = data.draw(st.dictionaries(names, st.sampled_from(KEY_TYPES), min_size=1, max_size=3))
    # Feast itself refuses a key of no bytes.
    values = SCALARS | {ValueType.BYTES: st.binary(min_size=1)}
    entity = st.fixed_dictionaries({name: values[kind] for name, kind in join_keys.items()})
    entities = data.draw(st.lists(entity, max_size=5))
    project = data.draw(names)
    view = key_view(join_keys, project)
    table = pa.Table.from_pylist(entities, pa.schema([(key.name, key.arrow_type) for key in view.join_keys]))
    expected = [
        serialize_entity_key(
            EntityKey(
                join_keys=list(join_keys),
                entity_values=[python_values_to_proto_values([one[name]], kind)[0] for name, kind in join_keys.items()],
            ),
            entity_key_serialization_version=3,
        )
        + project.encode()
        for one in entities
    ]
    codec = entity_keys(view)
    assert codec.encode(table).to_pylist() == expected
    assert codec.lengths(table).tolist() == list(map(len, expected))
    belongs, back = codec.decode(expected)
    assert belongs.all() and back.select(table.column_names).equals(table)


def test_a_view_without_entities_has_one_key() -> None:
    view = key_view({})
    dummy = EntityKey(join_keys=["__dummy_id"], entity_values=[Value(string_val="")])
    expected = serialize_entity_key(dummy, entity_key_serialization_version=3) + b"prod"
    rows = pa.table({"x": [1, 2]})
    assert entity_keys(view).encode(rows).to_pylist() == [expected, expected]
    assert entity_keys(view).lengths(rows).tolist() == [len(expected)] * 2
    declared = key_view({"__dummy_id": ValueType.STRING})
    assert entity_keys(declared).encode(pa.table({"__dummy_id": [""]})).to_pylist() == [expected]
    belongs, columns = entity_keys(view).decode([expected, b"other"])
    assert belongs.tolist() == [True, False] and columns.shape == (1, 0)


def test_keys_of_others_do_not_belong() -> None:
    view = key_view({"id": ValueType.STRING})
    table = pa.table({"id": ["non", "x", "xprod", ""]})
    ours = entity_keys(view).encode(table).to_pylist()
    nonprod = entity_keys(key_view({"id": ValueType.STRING}, "nonprod")).encode(table).to_pylist()
    numbers = entity_keys(key_view({"id": ValueType.INT64})).encode(pa.table({"id": [1]})).to_pylist()
    others = entity_keys(key_view({"idx": ValueType.STRING})).encode(pa.table({"idx": ["x"]})).to_pylist()
    cut = [key[:-5] for key in ours] + [ours[0][:10], b""]
    belongs, columns = entity_keys(view).decode([*nonprod, *ours, *numbers, *others, *cut])
    assert belongs.tolist() == [False] * 4 + [True] * 4 + [False] * (2 + len(cut))
    assert columns.equals(table)


def test_a_join_key_that_is_null_is_refused() -> None:
    with pytest.raises(ValueError, match="join key 'id' is null in 1 of 2 rows"):
        entity_keys(key_view({"id": ValueType.STRING})).encode(pa.table({"id": ["a", None]}))


@pytest.mark.parametrize("kind", [ValueType.BOOL, ValueType.DOUBLE, ValueType.UUID, ValueType.STRING_LIST])
def test_a_join_key_type_that_feast_cannot_serialise_is_refused(kind: ValueType) -> None:
    with pytest.raises(ValueError, match=f"join key 'id' is of type {kind.name}"):
        check_key_type("id", kind.value)
    with pytest.raises(ValueError, match="join key 'id'"):
        entity_keys(key_view({"id": kind}))
