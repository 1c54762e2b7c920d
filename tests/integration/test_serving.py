"""`millrace serve` over real Redis and Feast: what it answers, and what it refuses."""

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.serving_repo import Server, millrace, new_key


@pytest.fixture(scope="module")
def server(repo: Path) -> Iterator[Server]:
    with millrace(repo, body_bytes=8192, header_seconds=0.5, entities=50, features=20) as running:
        yield running


def test_every_value_has_its_status(server: Server) -> None:
    status, answer = server.features(
        features=["weather:temp", "airports:name"], entities={"origin": ["EWR", "JFK", "LGA", "XXX"]}
    )
    assert status == 200
    assert answer["metadata"] == {"feature_names": ["origin", "temp", "name"]}
    assert [(column["values"], column["statuses"]) for column in answer["results"]] == [
        (["EWR", "JFK", "LGA", "XXX"], ["PRESENT"] * 4),
        ([39.25, None, None, None], ["PRESENT", "NULL_VALUE", "OUTSIDE_MAX_AGE", "NOT_FOUND"]),
        (["Newark", "Kennedy", None, None], ["PRESENT", "PRESENT", "NOT_FOUND", "NOT_FOUND"]),
    ]


def test_it_is_ready(server: Server) -> None:
    stores = {"registry": "up", "redis": "up"}
    assert server.ask("/ready") == (200, {"status": "ready", "project": "served", "stores": stores})


EWR: dict[str, Any] = {"origin": ["EWR"]}
TEMP = ["weather:temp"]

REFUSED: list[tuple[Any, int, str]] = [
    (b"{", 422, "the body is not JSON"),
    (b"[]", 422, "must be a JSON object"),
    ({"entities": EWR, "feature": TEMP}, 422, "unknown field feature"),
    ({"entities": EWR}, 422, "name features"),
    ({"entities": EWR, "features": "weather:temp"}, 422, "features must be a list"),
    ({"entities": EWR, "features": [1]}, 422, "features must be a list"),
    ({"entities": EWR, "features": ["temp"]}, 422, "'temp' is no feature: write view:feature"),
    ({"entities": EWR, "features": ["wether:temp"]}, 404, "no feature view 'wether'; there are: airports,"),
    ({"entities": EWR, "features": ["weather:tmp"]}, 404, "no feature 'tmp'; it has: temp, wind, sky"),
    ({"entities": EWR, "features": ["weather@v9:temp"]}, 404, "v9"),
    ({"entities": EWR, "features": ["weather@x:temp"]}, 404, "weather@x"),
    ({"entities": EWR, "features": ["weather@v" + "9" * 5_000 + ":temp"]}, 422, "is no feature: write view:feature"),
    ({"entities": EWR, "features": TEMP * 2}, 422, "Duplicate features named temp"),
    ({"entities": EWR, "features": TEMP * 21}, 413, "at most 20"),
    ({"entities": EWR, "features": TEMP, "full_feature_names": "yes"}, 422, "true or false"),
    ({"entities": EWR, "feature_service": "departures"}, 404, "no feature service 'departures'; there are: both_ends"),
    ({"entities": EWR, "feature_service": 1}, 422, "feature_service must be a string"),
    ({"entities": EWR, "features": TEMP, "feature_service": "departure"}, 422, "not both"),
    ({"features": TEMP}, 422, "entities must be an object of lists"),
    ({"features": TEMP, "entities": {}}, 422, "names no entity"),
    ({"features": TEMP, "entities": {"origin": []}}, 422, "names no entity"),
    ({"features": TEMP, "entities": {"origin": "EWR"}}, 422, "entities.origin must be a list"),
    ({"features": TEMP, "entities": {"origin": ["EWR"], "flight": [1, 2]}}, 422, "origin: 1, flight: 2"),
    ({"features": TEMP, "entities": {"dest": ["EWR"]}}, 422, "entities has no 'origin'"),
    ({"features": TEMP, "entities": {"origin": [1]}}, 422, "entities.origin must be STRING, and holds int"),
    ({"features": TEMP, "entities": {"origin": [None]}}, 422, "entities.origin must be STRING, and holds null"),
    ({"features": TEMP, "entities": {"origin": ["a"] * 51}}, 413, "at most 50"),
    ({"features": ["types:int64"], "entities": {"item": [True]}}, 422, "entities.item must be INT32, and holds bool"),
    ({"features": ["types:int64"], "entities": {"item": [2**31]}}, 422, "entities.item has a value that its type"),
    ({"features": ["types:int64"], "entities": {"item": [1.0]}}, 422, "entities.item must be INT32, and holds float"),
    ({"features": ["moments:count"], "entities": {"seen": ["x"], "item": [1]}}, 422, "must be UNIX_TIMESTAMP"),
    ({"features": ["felt_python:felt"], "entities": EWR}, 422, "entities has no 'offset'"),
    ({"features": ["felt_python:felt"], "entities": {**EWR, "offset": ["a"]}}, 422, "felt_python failed"),
    ({"features": ["felt_pandas:felt_twice"], "entities": {**EWR, "offset": [{}]}}, 422, ""),
    ({"features": ["felt_python:felt"], "entities": {**EWR, "offset": [[1, "a", {}]]}}, 422, ""),
    (b" " * 9000, 413, "the body has 9000 bytes; at most 8192"),
]


@pytest.mark.parametrize(("body", "status", "detail"), REFUSED)
def test_what_cannot_be_answered(server: Server, body: Any, status: int, detail: str) -> None:
    found, answer = server.ask("/get-online-features", body)
    assert found == status, answer
    assert detail in answer["detail"]


def test_a_moment_as_text_is_a_timestamp_key(server: Server) -> None:
    entities = {"seen": ["1970-01-02T00:00:00Z"], "item": [1]}
    _, answer = server.features(features=["moments:count"], entities=entities)
    assert [column["values"] for column in answer["results"]] == [[86_400], [1], [5]]


@pytest.mark.parametrize(("path", "body", "status"), [("/nothing", None, 404), ("/get-online-features", None, 405)])
def test_other_paths_and_methods(server: Server, path: str, body: Any, status: int) -> None:
    assert server.ask(path, body)[0] == status


def test_a_search_without_a_vector_view_is_refused(server: Server) -> None:
    status, answer = server.ask("/search", {"features": TEMP, "query": [1.0]})
    assert (status, answer["error"]) == (404, "not_declared")


def test_a_body_without_a_length_is_bounded(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", "/get-online-features", iter([b" " * 5000] * 2), {"content-type": "application/json"})
    assert connection.getresponse().status == 413


def test_a_body_that_is_cut_off_is_the_fault_of_the_request(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(b"POST /get-online-features HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert "request_failed" not in server.output.read_text()


def test_a_head_that_does_not_come_ends_the_connection(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(b"POST /get-online-features HTTP/1.1\r\nhost: localhost\r\n")
        while client.recv(1000):  # the server's word on it, if any, and then the end
            pass


def test_metrics_count_requests_and_entities(server: Server) -> None:
    before = _metric(server, 'millrace_entities_total{route="/get-online-features"}')
    server.features(features=TEMP, entities={"origin": ["EWR", "JFK"]})
    assert _metric(server, 'millrace_entities_total{route="/get-online-features"}') == before + 2
    assert _metric(server, 'millrace_request_seconds_count{route="/get-online-features"}') > 0


def _metric(server: Server, name: str) -> float:
    lines = server.ask("/metrics")[1].splitlines()
    return next((float(line.split(" ")[1]) for line in lines if line.startswith(name + " ")), 0.0)


def test_the_description_has_examples_that_work(server: Server) -> None:
    status, described = server.ask("/openapi.json")
    example = described["paths"]["/get-online-features"]["post"]["requestBody"]["content"]["application/json"]
    assert status == 200
    assert server.ask("/get-online-features", example["example"])[0] == 200
    status, page = server.ask("/docs")
    assert status == 200
    assert json.dumps(example["example"]["features"][0]).strip('"') in page


def test_off_loopback_it_wants_keys_or_to_be_told(repo: Path) -> None:
    refused = subprocess.run(_command(repo, "--host", "0.0.0.0"), capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "millrace keys add NAME, or say --without-keys" in refused.stderr
    with millrace(repo, "--host", "0.0.0.0", "--without-keys") as server:
        assert server.features(features=TEMP, entities=EWR)[0] == 200


def test_with_keys(repo: Path) -> None:
    key = new_key(repo, "model")
    with millrace(repo, "--with-keys") as server:
        body = {"features": TEMP, "entities": EWR}
        bearer = {"authorization": f"Bearer {key}"}
        assert server.ask("/get-online-features", body)[0] == 401
        assert server.ask("/get-online-features", body, {"authorization": "Bearer mr_no"})[0] == 401
        assert server.ask("/get-online-features", body, bearer)[0] == 200
        status, answer = server.ask("/get-online-features", {**body, "features": ["airports:name"]}, bearer)
        assert (status, "airports:name" in answer["detail"]) == (403, True)
        status, answer = server.ask("/get-online-features", {"feature_service": "departure", "entities": EWR}, bearer)
        assert status == 403
    log = server.output.read_text()  # a server that stops writes what waits
    assert "key=model" in log
    assert "EWR" not in log


def _command(repo: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "millrace.cli", "serve", "--repo", str(repo), "--stack", str(repo / "no"), *options]
