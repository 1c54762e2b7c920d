"""Stored values as JSON: what Feast's own server makes of the same bytes."""

import struct
from typing import Any

import pytest
from feast.feature_server_utils import _value_to_native
from feast.protos.feast.types.Value_pb2 import Map, MapKey, ScalarMap, ScalarMapEntry, Value
from hypothesis import given
from hypothesis import strategies as st

from stores.json_values import BULK, _Known, decoder
from stores.values import NO_TIMESTAMP

moments = st.integers(-(2**63) + 1, 2**63 - 1)
KINDS: dict[int, tuple[str, st.SearchStrategy[Any]]] = {
    1: ("bytes_val", st.binary(max_size=300)),
    2: ("string_val", st.text(max_size=300)),
    3: ("int32_val", st.integers(-(2**31), 2**31 - 1)),
    4: ("int64_val", st.integers(-(2**63), 2**63 - 1)),
    5: ("double_val", st.floats()),
    6: ("float_val", st.floats(width=32)),
    7: ("bool_val", st.booleans()),
    8: ("unix_timestamp_val", moments),
    32: ("json_val", st.text(max_size=300)),
    36: ("uuid_val", st.text(max_size=300)),
    37: ("time_uuid_val", st.text(max_size=300)),
    44: ("decimal_val", st.text(max_size=300)),
}


def stored(field: str, value: Any) -> bytes | None:
    return None if value is None else Value(**{field: value}).SerializeToString()


@pytest.mark.parametrize("value_type", KINDS)
@given(data=st.data())
def test_as_feast_answers(value_type: int, data: st.DataObject) -> None:
    field, values = KINDS[value_type]
    column = data.draw(st.lists(values | st.none(), max_size=20))
    some = [stored(field, value) for value in column]
    expected = [None if value is None else _value_to_native(Value.FromString(value)) for value in some]
    assert decoder(value_type)(some) == expected
    full = [value for value in some if value is not None]
    assert decoder(value_type)(full) == [value for value in expected if value is not None]


@pytest.mark.parametrize("value_type", [3, 4, 8])
def test_many_integers(value_type: int) -> None:
    field, _ = KINDS[value_type]
    values = [(-1) ** n * n**3 for n in range(BULK + 50)]
    some = [stored(field, value) for value in values]
    assert decoder(value_type)(some) == values
    assert decoder(value_type)([*some, None, b""]) == [*values, None, None]


@pytest.mark.parametrize("value_type", [5, 6])
@pytest.mark.parametrize("count", [BULK - 1, BULK, BULK + 50])
def test_many_floats(value_type: int, count: int) -> None:
    field, _ = KINDS[value_type]
    values = [(-1) ** n * n / 8 for n in range(count)]
    some = [stored(field, value) for value in values]
    found = decoder(value_type)(some)
    assert found == values and set(map(type, found)) == {float}
    assert decoder(value_type)([*some, None, b"", stored(field, float("inf"))]) == [*values, None, None, "Infinity"]
    assert decoder(value_type)([*some, stored(field, float("nan"))]) == [*values, "NaN"]


@pytest.mark.parametrize("value_type", KINDS)
@pytest.mark.parametrize(
    "value", [Value(int64_val=7), Value(string_val="x"), Value(double_val=1.5), Value(map_val=Map())]
)
def test_a_value_stored_as_another_type_is_what_it_is(value_type: int, value: Value) -> None:
    """Beside enough of the declared type for the ways over whole columns."""
    field, _ = KINDS[value_type]
    sample = b"x" if field == "bytes_val" else "x" if field[:4] in ("stri", "json", "uuid", "time", "deci") else 1
    column = [stored(field, sample)] * (BULK + 1) + [value.SerializeToString()]
    assert decoder(value_type)(column)[-1] == _value_to_native(value)


def test_a_null_timestamp_is_null() -> None:
    assert decoder(8)([Value(unix_timestamp_val=-(2**63)).SerializeToString()]) == [None]


def test_no_number_of_json_is_a_text() -> None:
    values = [float("nan"), float("inf"), float("-inf"), 1.5]
    column = [Value(double_val=value).SerializeToString() for value in values]
    assert decoder(5)(column) == ["NaN", "Infinity", "-Infinity", 1.5]
    single = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    assert decoder(6)([Value(float_val=0.1).SerializeToString()]) == [single]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (MapKey(int32_key=-1), "-1"),
        (MapKey(int64_key=2**40), "1099511627776"),
        (MapKey(double_key=0.1), "0.1"),
        (MapKey(bool_key=True), "true"),
        (MapKey(unix_timestamp_key=86_400), "86400"),
        (MapKey(bytes_key=b"\xff"), "/w=="),
        (MapKey(uuid_key="12345678-1234-5678-1234-567812345678"), "12345678-1234-5678-1234-567812345678"),
        (MapKey(decimal_key="12.340"), "12.340"),
    ],
)
def test_a_map_with_keys_that_are_no_texts(key: MapKey, text: str) -> None:
    entries = [ScalarMapEntry(key=key, value=Value(double_val=float("nan")))]
    stored_map = Value(scalar_map_val=ScalarMap(val=entries)).SerializeToString()
    assert decoder(47)([stored_map, None, b""]) == [{text: "NaN"}, None, None]


@pytest.mark.parametrize(("value_type", "field"), [(18, "unix_timestamp_list_val"), (29, "unix_timestamp_set_val")])
def test_a_null_among_timestamps_is_null(value_type: int, field: str) -> None:
    """Feast, and `stores.values`, store it as the number that pandas has for it."""
    fields: Any = {field: {"val": [NO_TIMESTAMP, 5]}}
    of_two = Value(**fields).SerializeToString()
    assert decoder(value_type)([of_two, None, b""]) == [[None, 5], None, None]


def test_threads_may_decode_at_once() -> None:
    """What is known of values is forgotten at times, by whichever thread has one too many."""
    known = _Known(lambda value: str(value[2:], "utf-8"))
    assert [known[b"\x12\x01a"], known[None], known[b""]] == ["a", None, None]
    known.clear()  # as another thread does, and fills it anew only then
    assert [known[None], known[b""], known[b"\x12\x01a"]] == [None, None, "a"]
