"""Every type of value that Feast can declare, and values of each as Feast stores them."""

from typing import Any

from feast.protos.feast.types.Value_pb2 import (
    BoolList,
    BoolSet,
    BytesList,
    BytesSet,
    DoubleList,
    DoubleSet,
    FloatList,
    FloatSet,
    Int32List,
    Int32Set,
    Int64List,
    Int64Set,
    Map,
    MapKey,
    MapList,
    RepeatedValue,
    ScalarMap,
    ScalarMapEntry,
    StringList,
    StringSet,
    Value,
    ZonedTimestamp,
)
from feast.types import VALUE_TYPES_TO_FEAST_TYPES, Array, Int64, Set, String, Struct
from feast.value_type import ValueType

NOT_DECLARED = {
    ValueType.UNKNOWN: "a field of this type is refused by Feast when it is written",
    ValueType.NULL: "what a value is that is not there; no dtype of Feast's stands for it",
}
"""The types that no field has, and why."""

COMPOSED: dict[ValueType, Any] = {
    ValueType.STRUCT: Struct({"name": String, "size": Int64}),
    ValueType.STRUCT_LIST: Array(Struct({"name": String, "size": Int64})),
    ValueType.VALUE_LIST: Array(Array(Int64)),
    ValueType.VALUE_SET: Set(Array(Int64)),
}
"""Those that are made of other types."""

TYPES: dict[str, Any] = {
    kind.name.lower(): {**VALUE_TYPES_TO_FEAST_TYPES, **COMPOSED}[kind]
    for kind in ValueType
    if kind not in NOT_DECLARED
}
"""A field of each type, by name. A type that a new Feast adds and that has no dtype here fails at import."""


def _typed(sign: int, text: str, floats: list[float]) -> dict[str, Value]:
    data, moment, uuid = text.encode() + b"\xff", sign * 1_360_638_000, "12345678-1234-5678-1234-567812345678"
    time_uuid, words, numbers = "58e0a7d7-eebc-11d8-9669-0800200c9a66", [text, ""], [sign, 0]
    struct = Map(val={"name": Value(string_val=text), "size": Value(int64_val=sign)})
    nested = RepeatedValue(val=[Value(int64_list_val=Int64List(val=numbers)), Value(int64_list_val=Int64List())])
    return {
        "bytes": Value(bytes_val=data),
        "string": Value(string_val=text),
        "int32": Value(int32_val=sign * (2**31 - 1)),
        "int64": Value(int64_val=sign * (2**63 - 1)),
        "double": Value(double_val=floats[0]),
        "float": Value(float_val=floats[-1]),
        "bool": Value(bool_val=sign > 0),
        "unix_timestamp": Value(unix_timestamp_val=moment),
        "bytes_list": Value(bytes_list_val=BytesList(val=[data, b""])),
        "string_list": Value(string_list_val=StringList(val=words)),
        "int32_list": Value(int32_list_val=Int32List(val=numbers)),
        "int64_list": Value(int64_list_val=Int64List(val=numbers)),
        "double_list": Value(double_list_val=DoubleList(val=floats)),
        "float_list": Value(float_list_val=FloatList(val=floats)),
        "bool_list": Value(bool_list_val=BoolList(val=[True, False])),
        "unix_timestamp_list": Value(unix_timestamp_list_val=Int64List(val=[moment])),
        "map": Value(map_val=Map(val={text: Value(int64_val=sign), "none": Value()})),
        "map_list": Value(map_list_val=MapList(val=[Map(val={text: Value(double_val=floats[0])}), Map()])),
        "bytes_set": Value(bytes_set_val=BytesSet(val=[data])),
        "string_set": Value(string_set_val=StringSet(val=words)),
        "int32_set": Value(int32_set_val=Int32Set(val=numbers)),
        "int64_set": Value(int64_set_val=Int64Set(val=numbers)),
        "double_set": Value(double_set_val=DoubleSet(val=floats)),
        "float_set": Value(float_set_val=FloatSet(val=floats)),
        "bool_set": Value(bool_set_val=BoolSet(val=[True])),
        "unix_timestamp_set": Value(unix_timestamp_set_val=Int64Set(val=[moment])),
        "pdf_bytes": Value(bytes_val=b"%PDF-" + data),
        "image_bytes": Value(bytes_val=b"\x89PNG" + data),
        "json": Value(json_val='{"a": [1, null]}'),
        "json_list": Value(json_list_val=StringList(val=['{"a": 1}', "[]"])),
        "struct": Value(struct_val=struct),
        "struct_list": Value(struct_list_val=MapList(val=[struct, Map()])),
        "uuid": Value(uuid_val=uuid),
        "time_uuid": Value(time_uuid_val=time_uuid),
        "uuid_list": Value(uuid_list_val=StringList(val=[uuid])),
        "time_uuid_list": Value(time_uuid_list_val=StringList(val=[time_uuid])),
        "uuid_set": Value(uuid_set_val=StringSet(val=[uuid])),
        "time_uuid_set": Value(time_uuid_set_val=StringSet(val=[time_uuid])),
        "value_list": Value(list_val=nested),
        "value_set": Value(set_val=nested),
        "decimal": Value(decimal_val="12.340"),
        "decimal_list": Value(decimal_list_val=StringList(val=["12.340", "-1E+3"])),
        "decimal_set": Value(decimal_set_val=StringSet(val=["12.340"])),
        "scalar_map": Value(scalar_map_val=_scalar_map(sign, text, data, moment)),
        "zoned_timestamp": Value(zoned_timestamp_val=ZonedTimestamp(unix_timestamp=moment, zone="Europe/Prague")),
    }


def _scalar_map(sign: int, text: str, data: bytes, moment: int) -> ScalarMap:
    keys = [
        MapKey(int32_key=sign),
        MapKey(int64_key=sign * 2**40),
        MapKey(double_key=0.1),
        MapKey(bool_key=True),
        MapKey(unix_timestamp_key=moment),
        MapKey(bytes_key=data),
        MapKey(decimal_key="12.340"),
    ]
    return ScalarMap(val=[ScalarMapEntry(key=key, value=Value(string_val=text)) for key in keys])


TYPED = [
    _typed(1, "Žluťoučký", [1048.36, 0.1]),
    _typed(-1, "x" * 300, [float("nan"), float("-inf")]),
    {name: Value() for name in TYPES},
]
"""Three rows of the fields of `TYPES`; the last has nulls only."""
