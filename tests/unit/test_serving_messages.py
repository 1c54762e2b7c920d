"""Feast's message as a request, and as what the answer repeats of it: both are of the same values."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import BytesList, DoubleList, Map, MapList, RepeatedValue, StringList, Value

from serving.messages import request_fields, response
from serving.plan import InvalidRequest


def column(value: str) -> RepeatedValue:
    return RepeatedValue(val=[Value(string_val=value)])


def answered(message: GetOnlineFeaturesRequest, *keys: str) -> dict[str, str]:
    """The join keys of an answer that has no features."""
    plan = SimpleNamespace(entity_names={"airline": "carrier"}, features=(), requested=(), statuses=lambda rows: ())
    found: Any = SimpleNamespace(plan=plan, keys=keys, rows=SimpleNamespace(count=1, views=(), columns=()), derived=())
    answer = GetOnlineFeaturesResponse.FromString(response(message, found, False))
    shown = zip(answer.metadata.feature_names.val, answer.results, strict=True)
    return {name: vector.values[0].string_val for name, vector in shown}


def test_a_name_in_the_entities_and_in_the_context_is_refused() -> None:
    message = GetOnlineFeaturesRequest(
        entities={"origin": column("EWR"), "dest": column("LAX")}, request_context={"origin": column("JFK")}
    )
    with pytest.raises(InvalidRequest, match="origin is in entities and in request_context"):
        request_fields(message)


def test_a_join_key_of_the_context_is_answered_as_one_of_the_entities() -> None:
    message = GetOnlineFeaturesRequest(
        entities={"origin": column("EWR")}, request_context={"dest": column("LAX"), "offset": column("1")}
    )
    assert request_fields(message)["entities"] == {"dest": ["LAX"], "offset": ["1"], "origin": ["EWR"]}
    assert answered(message, "dest", "origin") == {"dest": "LAX", "origin": "EWR"}


def test_a_join_key_by_the_name_of_its_entity_is_answered_as_the_join_key() -> None:
    message = GetOnlineFeaturesRequest(entities={"airline": column("UA"), "origin": column("EWR")})
    assert answered(message, "carrier", "origin") == {"carrier": "UA", "origin": "EWR"}


ONE, TEXT, BYTES = Value(double_val=1.0), Value(string_val="a"), Value(bytes_val=b"\xff")


@pytest.mark.parametrize(
    ("value", "native"),
    [
        (Value(), None),
        (TEXT, "a"),
        (BYTES, "/w=="),
        (Value(bytes_list_val=BytesList(val=[b"\xff"])), ["/w=="]),
        (Value(string_list_val=StringList(val=["a", "b"])), ["a", "b"]),
        (Value(map_val=Map(val={"n": ONE, "b": BYTES})), {"n": 1.0, "b": "/w=="}),
        (Value(struct_val=Map(val={"in": Value(map_val=Map(val={"n": ONE}))})), {"in": {"n": 1.0}}),
        (Value(map_list_val=MapList(val=[Map(val={"n": ONE})])), [{"n": 1.0}]),
        (Value(list_val=RepeatedValue(val=[ONE, Value()])), [1.0, None]),
        (Value(list_val=RepeatedValue(val=[Value(list_val=RepeatedValue(val=[TEXT]))])), [["a"]]),
    ],
)
def test_a_value_comes_as_json_would_have_it(value: Value, native: Any) -> None:
    message = GetOnlineFeaturesRequest(entities={"asked": RepeatedValue(val=[value])})
    assert request_fields(message)["entities"] == {"asked": [native]}


def test_numbers_that_json_does_not_know_stay_numbers() -> None:
    endless = Value(double_val=math.inf)
    values = [
        endless,
        Value(double_list_val=DoubleList(val=[1.0, math.inf])),
        Value(map_val=Map(val={"n": endless})),
    ]
    message = GetOnlineFeaturesRequest(entities={"asked": RepeatedValue(val=values)})
    assert request_fields(message)["entities"] == {"asked": [math.inf, [1.0, math.inf], {"n": math.inf}]}
