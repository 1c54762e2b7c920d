"""The client against a server of the test's own that answers badly: what is sent again, what is not, what is said."""

import asyncio
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from millrace.client import (
    AsyncClient,
    Client,
    ClientError,
    Forbidden,
    InvalidAnswer,
    InvalidRequest,
    OnlineFeatures,
    ServerFailed,
    Status,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from millrace.client.answer import nearest_first, read_answer
from millrace.client.errors import of_response
from millrace.client.retry import LONGEST_PAUSE, Attempts
from millrace.stack.ports import choose_ports
from serving.refusals import RETRY

GOOD = {
    "metadata": {"feature_names": ["faa", "temp"]},
    "results": [
        {"values": ["JFK"], "statuses": ["PRESENT"], "event_timestamps": ["1970-01-01T00:00:00Z"]},
        {"values": [39.2], "statuses": ["PRESENT"], "event_timestamps": ["2013-02-12T03:00:00.5Z"]},
    ],
}
Answer = tuple[int, dict[str, str], bytes] | None
"""Status, headers, body; None closes the connection without a response."""


@dataclass
class Script:
    """Answers in order, the last one again and again; what was asked."""

    answers: list[Answer]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    delay: float = 0.0
    trickle: float = 0.0
    """Seconds between the last bytes of a body."""
    url: str = ""

    def next(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def answer(status: int = 200, document: Any = GOOD, **headers: str) -> Answer:
    return status, {name.replace("_", "-"): text for name, text in headers.items()}, json.dumps(document).encode()


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script([answer()])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            script.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            script.keys.append(self.headers["authorization"])
            time.sleep(script.delay)
            found = script.next()
            if found is None:
                self.close_connection = True
                return
            status, headers, body = found
            self.send_response(status)
            for name, text in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, text)
            self.close_connection |= "content-length" in headers  # one that is not the body's
            self.end_headers()
            last = 25 if script.trickle else 0
            self.wfile.write(body[: len(body) - last])
            with suppress(OSError):  # the client has gone
                for number in range(len(body) - last, len(body)):
                    time.sleep(script.trickle)
                    self.wfile.write(body[number : number + 1])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    yield script
    server.shutdown()
    server.server_close()


def sync_ask(script: Script, **options: Any) -> OnlineFeatures:
    with Client(script.url, **{"timeout": 30, **options}) as client:
        return client.get_online_features(["weather:temp"], entities={"faa": ["JFK"]})


def async_ask(script: Script, **options: Any) -> OnlineFeatures:
    async def run() -> OnlineFeatures:
        async with AsyncClient(script.url, **{"timeout": 30, **options}) as client:
            return await client.get_online_features(["weather:temp"], entities={"faa": ["JFK"]})

    return asyncio.run(run())


Ask = Callable[..., OnlineFeatures]
both = pytest.mark.parametrize("ask", [sync_ask, async_ask])


@both
def test_a_request_in_feasts_form_with_the_key(script: Script, ask: Ask) -> None:
    found = ask(script, key="mr_1")
    assert script.asked == [{"features": ["weather:temp"], "entities": {"faa": ["JFK"]}, "full_feature_names": False}]
    assert script.keys == ["Bearer mr_1"]
    assert found.to_dict() == {"faa": ["JFK"], "temp": [39.2]}
    assert found.statuses["temp"] == [Status.PRESENT]
    assert found.event_timestamps["faa"] == [None]
    (moment,) = found.event_timestamps["temp"]
    assert moment is not None and moment.isoformat() == "2013-02-12T03:00:00.500000+00:00"


@both
@pytest.mark.parametrize("failure", [answer(503, "busy", retry_after="0"), None])
def test_what_is_safe_to_repeat_is_sent_again(script: Script, ask: Ask, failure: Answer) -> None:
    script.answers = [failure, failure, answer()]
    assert ask(script, retries=2).values["temp"] == [39.2]
    assert len(script.asked) == 3


@both
def test_at_the_default_time_out_what_the_server_has_no_room_for_is_sent_again(script: Script, ask: Ask) -> None:
    """It asks for a second, which is all that the call has."""
    script.answers = [answer(503, "busy", retry_after=dict(RETRY)["retry-after"]), answer()]
    default = signature(Client).parameters["timeout"].default
    assert default == signature(AsyncClient).parameters["timeout"].default <= float(dict(RETRY)["retry-after"])
    assert ask(script, timeout=default).values["temp"] == [39.2]
    assert len(script.asked) == 2


def test_who_has_no_time_left_is_told_what_the_server_said() -> None:
    now = [0.0]
    attempts = Attempts(0.05, 3, clock=lambda: now[0])
    assert 0 < attempts.pause(Unavailable("busy", 503, 1.0)) <= 0.025
    now[0] = 0.04
    with pytest.raises(Unavailable, match="busy"):
        attempts.pause(Unavailable("busy", 503, 1.0))


@both
def test_nothing_is_repeated_beyond_the_retries(script: Script, ask: Ask) -> None:
    script.answers = [answer(503, {"detail": "Redis is unavailable"}, retry_after="0")]
    with pytest.raises(Unavailable, match="503: Redis is unavailable"):
        ask(script, retries=1)
    assert len(script.asked) == 2


@both
@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (answer(400, {"detail": "no feature weather:tmp"}), InvalidRequest, "no feature weather:tmp"),
        (answer(404, '{"module": "feast.errors", "message": "no view"}'), InvalidRequest, "no view"),
        (answer(422, {"detail": [{"loc": ["body"]}]}), InvalidRequest, "body"),
        (answer(401, {"detail": "a key is needed"}), Unauthorized, "a key is needed"),
        (answer(403, {"detail": "not for you"}), Forbidden, "not for you"),
        (answer(429, {"detail": "wait"}, retry_after="3"), TooManyRequests, "wait"),
        (answer(503, "down"), Unavailable, "down"),
        (answer(500, "odd"), ServerFailed, "odd"),
        (answer(200, {"hello": "world"}), InvalidAnswer, "not of Feast's form"),
        ((200, {}, b"<html>"), InvalidAnswer, "not JSON"),
    ],
)
def test_every_other_failure_is_raised_at_once_in_the_servers_words(
    script: Script, ask: Ask, failure: Answer, kind: type[ClientError], said: str
) -> None:
    script.answers = [failure]
    with pytest.raises(kind, match=said) as raised:
        ask(script)
    assert len(script.asked) == 1
    if isinstance(raised.value, TooManyRequests):
        assert raised.value.retry_after == 3.0


def broken(status: int, **headers: str) -> Answer:
    """A response that breaks off in the midst of its body."""
    return status, {name.replace("_", "-"): text for name, text in headers.items()} | {"content-length": "100"}, b'{"a'


@both
@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (broken(200), InvalidAnswer, "cannot be read to its end"),
        (broken(429, retry_after="3"), TooManyRequests, "429"),
        (broken(500), ServerFailed, "500"),
        (broken(503), Unavailable, "503"),
        ((200, {"content-encoding": "gzip"}, b"abc"), InvalidAnswer, "cannot be read to its end"),
        ((429, {"content-encoding": "gzip", "retry-after": "3"}, b"abc"), TooManyRequests, "429"),
    ],
)
def test_a_response_that_has_begun_and_breaks_off_is_not_asked_for_again(
    script: Script, ask: Ask, failure: Answer, kind: type[ClientError], said: str
) -> None:
    script.answers = [failure]
    with pytest.raises(kind, match=said) as raised:
        ask(script)
    assert failure is not None and raised.value.status == failure[0]
    assert len(script.asked) == 1
    if isinstance(raised.value, TooManyRequests):
        assert raised.value.retry_after == 3.0


@both
def test_a_response_that_breaks_off_with_a_call_to_come_again_is_sent_again(script: Script, ask: Ask) -> None:
    script.answers = [broken(503, retry_after="0"), answer()]
    assert ask(script, retries=1).values["temp"] == [39.2]


@both
@pytest.mark.parametrize("retry_after", ["-5", "nan"])
def test_a_pause_below_zero_is_none(script: Script, ask: Ask, retry_after: str) -> None:
    script.answers = [answer(503, "busy", retry_after=retry_after), answer()]
    assert ask(script, retries=1).values["temp"] == [39.2]


@both
def test_a_time_out_is_not_repeated(script: Script, ask: Ask) -> None:
    script.delay = 5.0
    with pytest.raises(TimedOut):
        ask(script, timeout=1)
    assert len(script.asked) == 1


@both
def test_an_answer_that_trickles_in_is_given_up_in_time(script: Script, ask: Ask) -> None:
    """It would be whole after five seconds, and no byte takes as long as the time-out."""
    script.trickle = 0.2
    with pytest.raises(TimedOut):
        ask(script, timeout=1)
    assert len(script.asked) == 1


@both
def test_a_server_that_is_not_there(ask: Ask) -> None:
    port = choose_ports(("nobody",), {})["nobody"]
    with pytest.raises(Unreachable, match=str(port)):
        ask(Script([], url=f"http://127.0.0.1:{port}"), retries=1)


def test_pauses_are_drawn_from_a_growing_range_and_stay_within_the_time_out() -> None:
    ranges: list[tuple[float, float]] = []

    def draw(least: float, most: float) -> float:
        ranges.append((least, most))
        return most

    now = [0.0]
    attempts = Attempts(30.0, 100, draw, lambda: now[0])
    failure = Unavailable("busy", 503, 1.0)
    with pytest.raises(Unavailable):
        for _ in range(100):
            pause, left = attempts.pause(failure), 30.0 - now[0]
            shortened = ranges[-1][0] > 0
            assert pause == pytest.approx(left / 2 if shortened else 1.0 + ranges[-1][1])
            assert ranges[-1][0] == (pytest.approx(left / 4) if shortened else 0.0)
            now[0] += pause
    assert ranges[:3] == [(0.0, 0.05), (0.0, 0.1), (0.0, 0.2)] and max(most for _, most in ranges) == LONGEST_PAUSE
    assert now[0] < 30.0
    now[0] = 30.0
    with pytest.raises(TimedOut):
        attempts.left()


@pytest.mark.parametrize("column", [["JFK"], ("JFK",), np.array(["JFK"]), pd.Series(["JFK"]), pa.array(["JFK"])])
def test_columns_of_any_library_are_taken(script: Script, column: Any) -> None:
    with Client(script.url, timeout=30) as client:
        client.get_online_features(feature_service="delays", entities={"faa": column})
    assert script.asked[0]["entities"] == {"faa": ["JFK"]}
    assert script.asked[0]["feature_service"] == "delays"


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    "url", ["localhost:6566", "//localhost", "features", "", "http://", "http://[::zz]", "ftp://features", "mr:mr@host"]
)
def test_what_is_no_address_of_a_server_is_refused_at_once(client: type[Client | AsyncClient], url: str) -> None:
    with pytest.raises(ValueError, match="write it as http://host:6566") as refused:
        client(url)
    assert "mr@" not in str(refused.value)


@both
def test_an_address_may_have_a_slash_at_its_end(script: Script, ask: Ask) -> None:
    script.url += "/"
    assert ask(script).values["temp"] == [39.2]


@both
def test_a_key_as_it_stands_in_a_file_is_taken(script: Script, ask: Ask) -> None:
    ask(script, key="mr_1\n")
    assert script.keys == ["Bearer mr_1"]


@both
@pytest.mark.parametrize("key", ["", "mr_1\nmr_2", "mr_ä", "mr 1", "mr_\x00"])
def test_what_can_be_no_key_is_refused_and_not_quoted(script: Script, ask: Ask, key: str) -> None:
    with pytest.raises(ValueError, match="no API key") as refused:
        ask(script, key=key)
    assert not key or key not in str(refused.value)
    assert script.asked == []


def test_requests_that_make_no_sense_are_not_sent(script: Script) -> None:
    with Client(script.url) as client:
        with pytest.raises(ValueError, match="features, or a feature_service"):
            client.get_online_features(entities={"faa": ["JFK"]})
        with pytest.raises(ValueError, match="different lengths"):
            client.get_online_features(["a:b"], entities={"faa": ["JFK"], "tail": []})
        with pytest.raises(ValueError, match="by a vector"):
            client.retrieve_online_documents(["a:b"])
    assert script.asked == []


def test_documents_in_feasts_form(script: Script) -> None:
    with Client(script.url, timeout=30) as client:
        client.retrieve_online_documents(["search:name"], query=np.array([0.5, 1.0]), top_k=3)
        client.retrieve_online_documents(["search:name"], query_string="lake")
    first, second = script.asked
    assert first == {"features": ["search:name"], "top_k": 3, "api_version": 2, "query": [0.5, 1.0]}
    assert second == {"features": ["search:name"], "top_k": 10, "api_version": 2, "query_string": "lake"}


def columns(**values: list[Any]) -> OnlineFeatures:
    results = [{"values": column, "statuses": ["PRESENT"] * len(column)} for column in values.values()]
    return read_answer({"metadata": {"feature_names": list(values)}, "results": results})


def test_the_values_in_each_form() -> None:
    found = columns(faa=["JFK", "EWR"], temp=[39.2, None], late=[True, False], odd=["NaN", 1.5], text=["NaN", "x"])
    assert found.values["text"] == ["NaN", "x"]
    table = found.to_arrow()
    assert table.schema.types[:3] == [pa.string(), pa.float64(), pa.bool_()]
    typed = found.to_arrow(pa.schema([("temp", pa.float32()), ("faa", pa.string())]))
    assert typed.schema.types == [pa.float32(), pa.string()] and typed["temp"].null_count == 1
    assert found.to_pandas()["temp"].isna().tolist() == [False, True]
    np.testing.assert_array_equal(found.to_numpy(["temp", "late", "odd"]), [[39.2, 1, np.nan], [np.nan, 0, 1.5]])
    with pytest.raises(ValueError, match="'faa' has values that are no numbers"):
        found.to_numpy()


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (["NaN"], [math.nan]),
        (["NaN", None], [math.nan, None]),
        (["Infinity", "-Infinity"], [math.inf, -math.inf]),
        ([[1.5, "NaN"], None, []], [[1.5, math.nan], None, []]),
        ([["NaN"]], [[math.nan]]),
        ([["NaN", "x"], [1]], [["NaN", "x"], [1]]),
    ],
)
def test_what_is_not_finite_is_a_number_where_no_text_stands_beside_it(sent: list[Any], read: list[Any]) -> None:
    assert repr(columns(odd=sent).values["odd"]) == repr(read)


def test_texts_of_that_spelling_are_texts_by_a_schema() -> None:
    found = columns(text=["NaN", None, "-Infinity"], texts=[["NaN"], None, []])
    typed = found.to_arrow(pa.schema([("text", pa.string()), ("texts", pa.list_(pa.string()))]))
    assert typed.to_pydict() == {"text": ["NaN", None, "-Infinity"], "texts": [["NaN"], None, []]}


def test_what_json_has_no_type_for_comes_in_the_types_of_a_schema() -> None:
    found = columns(
        seen=[1_360_638_000, None],
        days=[[0, 86_400], []],
        raw=["AP8=", None],
        parts=[["AP8=", ""], None],
        text=["2013-02-12T03:00:00", None],
        never=[None, None],
    )
    seen, utc = datetime(2013, 2, 12, 3, tzinfo=UTC), pa.timestamp("us", "UTC")
    schema = pa.schema(
        [
            ("seen", utc),
            ("days", pa.list_(pa.timestamp("ms"))),
            ("raw", pa.binary()),
            ("parts", pa.list_(pa.large_binary())),
            ("text", pa.timestamp("ns")),
            ("never", utc),
        ]
    )
    table = found.to_arrow(schema)
    assert table.schema == schema
    assert table["seen"].to_pylist() == [seen, None]
    assert table["days"].to_pylist() == [[datetime(1970, 1, 1), datetime(1970, 1, 2)], []]
    assert table["raw"].to_pylist() == [b"\x00\xff", None]
    assert table["parts"].to_pylist() == [[b"\x00\xff", b""], None]
    assert table["text"].cast(pa.timestamp("us")).to_pylist() == [seen.replace(tzinfo=None), None]
    assert table["never"].null_count == 2
    for unit in ("s", "ns"):
        (moment, _) = found.to_arrow(pa.schema([("seen", pa.timestamp(unit))]))["seen"].cast(utc).to_pylist()
        assert moment == seen
    with pytest.raises(ValueError, match="'text' is no base64"):
        found.to_arrow(pa.schema([("text", pa.binary())]))


MOMENT = datetime(2013, 2, 12, 3, 0, 0, 250_000, tzinfo=UTC)


SECOND, EVE = datetime(1970, 1, 1, 0, 0, 1), datetime(1969, 12, 31, 23, 59, 59)
MAPPED = pa.map_(pa.string(), pa.timestamp("ms"))


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ({"t": 1}, pa.struct([("t", pa.timestamp("us"))]), {"t": datetime(1970, 1, 1, 0, 0, 1)}),
        ({"b": "Zm9v"}, pa.struct([("b", pa.binary())]), {"b": b"foo"}),
        ({"in": [{"t": 1}, None]}, pa.struct([("in", pa.list_(pa.struct([("t", pa.timestamp("s"))])))]), None),
        ({"a": 1, "b": None}, pa.map_(pa.string(), pa.int64()), [("a", 1), ("b", None)]),
        ({"1": "Zm9v"}, pa.map_(pa.int32(), pa.large_binary()), [(1, b"foo")]),
        ({"1": 2, "-1": 3}, pa.map_(pa.timestamp("us"), pa.int64()), [(SECOND, 2), (EVE, 3)]),
        ({"1970-01-01T00:00:01": 2}, pa.map_(pa.timestamp("s"), pa.int64()), [(SECOND, 2)]),
        ({"a": 1.5, "b": "-Infinity"}, pa.map_(pa.string(), pa.float64()), [("a", 1.5), ("b", -math.inf)]),
        ({"a": 1, "b": "Infinity"}, pa.struct([("a", pa.float32()), ("b", pa.float64())]), {"a": 1.0, "b": math.inf}),
        ([{"a": 1.5, "b": "Infinity"}], pa.list_(pa.map_(pa.string(), pa.float16())), [[("a", 1.5), ("b", math.inf)]]),
        ({"a": 1}, MAPPED, [("a", datetime(1970, 1, 1, 0, 0, 1))]),
        ([1.0, math.inf], pa.list_(pa.float32(), 2), None),
        ({}, pa.struct([("a", pa.int64())]), {"a": None}),
        ({}, MAPPED, []),
        ([[1], None, []], pa.large_list(pa.list_(pa.int16())), None),
        (["NaN", "b"], pa.list_(pa.string()), None),
    ],
)
def test_what_stands_in_lists_structs_and_maps_comes_in_the_types_of_a_schema(
    value: Any, kind: pa.DataType, expected: Any
) -> None:
    if isinstance(value, dict) and "in" in value:
        expected = {"in": [{"t": datetime(1970, 1, 1, 0, 0, 1)}, None]}
    table = OnlineFeatures({"m": [value, None]}, {}, {}).to_arrow(pa.schema([("m", kind)]))
    assert table.schema.field("m").type == kind
    assert table.to_pydict() == {"m": [value if expected is None else expected, None]}


def test_what_is_no_number_in_a_struct_is_one_beside_numbers() -> None:
    kind = pa.struct([("a", pa.float64())])
    values = [{"a": 1.5}, {"a": "NaN"}, {"a": None}]
    first, second, third = OnlineFeatures({"m": values}, {}, {}).to_arrow(pa.schema([("m", kind)]))["m"].to_pylist()
    assert (first, third) == ({"a": 1.5}, {"a": None}) and math.isnan(second["a"])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("text", pa.list_(pa.int64())),
        ([1], pa.list_(pa.float32(), 2)),
        (1, pa.map_(pa.string(), pa.int64())),
        ([1], pa.struct([("a", pa.int64())])),
        (0, pa.map_(pa.string(), pa.int64())),
        ("ab", pa.list_(pa.string(), 2)),
        ({"a": "no number"}, pa.map_(pa.string(), pa.int64())),
    ],
)
def test_what_is_not_of_a_schemas_type_is_refused(value: Any, kind: pa.DataType) -> None:
    with pytest.raises(pa.ArrowInvalid):
        OnlineFeatures({"m": [value]}, {}, {}).to_arrow(pa.schema([("m", kind)]))


def test_what_is_missing_leaves_a_column_of_pandas_with_what_pandas_has_for_it() -> None:
    frame = columns(none=[None, None], late=[True, None], number=[1, None]).to_pandas()
    assert [str(kind) for kind in frame.dtypes] == ["object", "object", "float64"]
    assert frame["none"].tolist() == [None, None] and frame["late"].tolist() == [True, None]


def test_texts_are_no_numbers() -> None:
    """Though NumPy reads them as such: a ZIP code would lose its zeros."""
    with pytest.raises(ValueError, match="'zip' has values that are no numbers"):
        OnlineFeatures({"zip": ["02139", "10001"]}, {}, {}).to_numpy()


def test_an_error_of_any_form_is_an_error_of_the_client() -> None:
    assert isinstance(of_response(500, {}, b"[" * 100_000), ServerFailed)


@pytest.mark.parametrize("column", [[np.int64(3)], np.array([np.int64(3)], dtype=object), [np.int32(3)]])
def test_numbers_of_numpy_in_any_column_are_sent_as_numbers(script: Script, column: Any) -> None:
    with Client(script.url, timeout=30) as client:
        client.get_online_features(["v:f"], entities={"id": column})
    assert script.asked[0]["entities"] == {"id": [3]}


def test_numbers_of_numpy_in_a_search_are_sent_as_numbers(script: Script) -> None:
    equal = {"type": "eq", "key": "size", "value": np.int64(3)}
    with Client(script.url, timeout=30) as client:
        client.retrieve_online_documents(["v:f"], query=[np.float32(1)], filters=equal)
        with pytest.raises(ValueError, match="filters: set cannot be sent as JSON"):
            client.retrieve_online_documents(["v:f"], query=[1.0], filters={"type": "in", "key": "size", "value": {1}})
    asked = {name: script.asked[0][name] for name in ("query", "filters")}
    assert asked == {"query": [1.0], "filters": {**equal, "value": 3}}


@pytest.mark.parametrize("column", [[np.datetime64("2024-01-01", "ns")], [np.timedelta64(5, "ns")], [np.array([3])]])
def test_what_is_no_number_of_numpy_is_not_taken_for_one(script: Script, column: Any) -> None:
    with Client(script.url) as client, pytest.raises(ValueError, match=r"entities\['id'\]: .* cannot be sent as JSON"):
        client.get_online_features(["v:f"], entities={"id": column})
    assert not script.asked


def test_a_column_that_cannot_be_sent_is_named(script: Script) -> None:
    frame = pd.Series([1, None], dtype="Int64")
    with Client(script.url) as client, pytest.raises(ValueError, match=r"entities\['id'\]: NAType cannot be sent"):
        client.get_online_features(["v:f"], entities={"other": [1, 2], "id": frame})
    assert not script.asked


@pytest.mark.parametrize(
    "column",
    [
        np.array(["2013-02-12T03:00:00.250"], "datetime64[ns]"),
        np.array(["2013-02-12T03:00:00.250"], "datetime64[ms]"),
        pd.Series([MOMENT.replace(tzinfo=None)]),
        pd.Series([MOMENT]).dt.tz_convert("Asia/Tokyo"),
        pa.array([MOMENT], pa.timestamp("ns", "UTC")),
        pa.array([MOMENT], pa.timestamp("us", "UTC")),
        [MOMENT],
    ],
)
def test_moments_as_join_keys_are_sent_as_text(script: Script, column: Any) -> None:
    with Client(script.url, timeout=30) as client:
        client.get_online_features(feature_service="delays", entities={"seen": column})
    (sent,) = script.asked[0]["entities"]["seen"]
    read = datetime.fromisoformat(sent)
    assert (read if read.tzinfo else read.replace(tzinfo=UTC)) == MOMENT


def test_a_join_key_that_is_no_list_is_refused_before_anything_is_asked(script: Script) -> None:
    with Client(script.url, timeout=30) as client:
        with pytest.raises(ValueError, match=r"entities\['faa'\] is a list, one value an entity: \['JFK'\]"):
            client.get_online_features(["airports:name"], entities={"faa": "JFK"})
        with pytest.raises(ValueError, match="entities is a dict of columns, one a join key, and not a list"):
            client.get_online_features(["airports:name"], entities=[{"faa": "JFK"}])  # type: ignore[arg-type]  # as some do
        client.get_online_features(["airports:name"], entities=pd.DataFrame({"faa": ["JFK"]}))  # type: ignore[arg-type]  # no Mapping to its types
    assert [asked["entities"] for asked in script.asked] == [{"faa": ["JFK"]}]


def test_documents_are_put_in_the_order_of_their_distance() -> None:
    found = nearest_first(columns(faa=["DEN", "HNL", "ORD"], distance=[0.5, 0.1, 0.3]))
    assert found.to_dict() == {"faa": ["HNL", "ORD", "DEN"], "distance": [0.1, 0.3, 0.5]}
    assert nearest_first(columns(faa=["b", "a"])).values["faa"] == ["b", "a"]


def test_importing_the_client_imports_neither_feast_nor_the_platform() -> None:
    heavy = "feast", "pyarrow", "pandas", "numpy", "redis", "great_expectations", "serving", "stores", "streams"
    code = f"import sys, millrace.client; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
