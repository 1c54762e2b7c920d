"""`millrace serve` where strangers reach it: what they may send, and what they cannot keep others from."""

import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import grpc
import orjson
import pytest
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub
from feast.protos.feast.types.Value_pb2 import Value

from millrace.repo import open_repo
from millrace.stack.ports import choose_ports
from millrace.wiring import access_keys
from serving.keys import make_key
from tests.certificates import Authority
from tests.integration.serving_repo import Server, millrace, until
from tests.waiting import waited

TEMP: dict[str, Any] = {"features": ["weather:temp"], "entities": {"origin": ["EWR"]}}


@pytest.fixture(scope="module")
def key(repo: Path) -> str:
    made = make_key("exposed")
    assert access_keys(open_repo(repo, repo / "no-stack")).add(made.stored)
    return made.text


@pytest.fixture(scope="module")
def keyed(repo: Path, key: str) -> Iterator[Server]:
    with millrace(repo, "--with-keys", concurrency=4, queue=0, request_seconds=3) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_the_head_of_a_request_is_bounded(keyed: Server, key: str) -> None:
    head = "GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n" + "".join(f"x-{n}: {'a' * 3000}\r\n" for n in range(80))
    answer = b""
    # The server need not read to the end what it does not want.
    with socket.create_connection(("127.0.0.1", keyed.port), 10) as client, suppress(ConnectionError):
        client.sendall(f"{head}\r\n".encode())
        answer = client.recv(1000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert keyed.ask("/get-online-features", TEMP, bearer(key))[0] == 200


def test_who_sends_and_never_reads_holds_no_connection(repo: Path) -> None:
    """Without a key, as `/metrics` needs none: all connections of the only process, until its time is over."""
    with millrace(repo, connections=4, request_seconds=1) as server, ExitStack() as held:
        for _ in range(4):
            held.enter_context(never_reading(server.port))
        assert until(lambda: asked_health(server))


def never_reading(port: int) -> socket.socket:
    """A client that has asked for more than it and the server's system have room for."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.settimeout(0.5)
    with suppress(TimeoutError):
        for _ in range(10_000):
            client.sendall(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 100)
        raise AssertionError("the server took all that was sent")
    return client


def asked_health(server: Server) -> bool:
    with suppress(OSError):
        return server.ask("/health")[0] == 200
    return False


def test_the_console_over_tls_and_no_second_protocol(repo: Path, tmp_path: Path, key: str) -> None:
    """The limits of a head, and the console's look at the Host header, are those of HTTP/1.1."""
    authority = Authority(tmp_path)
    cert, private = tmp_path / "tls.crt", tmp_path / "tls.key"
    authority.sign("server", cert, private)
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    with millrace(repo, "--with-keys", tls_cert=cert, tls_key=private) as server:
        trusting.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("localhost", server.port), 10) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            assert connection.selected_alpn_protocol() != "h2"
        trusting = ssl.create_default_context(cafile=str(authority.certificate))
        asked = http.client.HTTPSConnection("localhost", server.port, context=trusting, timeout=10)
        form = {"content-type": "application/x-www-form-urlencoded", "origin": f"https://localhost:{server.port}"}
        asked.request("POST", "/console/login", urlencode({"key": key}), form)
        answer = asked.getresponse()
        answer.read()
        cookie = answer.headers["set-cookie"]
        assert answer.status == 303 and "Secure" in cookie
        asked.request("GET", "/console", headers={"cookie": cookie.partition(";")[0]})
        answer = asked.getresponse()
        assert answer.status == 200 and re.search(r"weather", answer.read().decode())


def half_a_request(server: Server, path: str, length: int = 1000, /, **headers: str) -> socket.socket:
    """A request whose body does not come."""
    client = socket.create_connection(("127.0.0.1", server.port), 10)
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    client.sendall(("\r\n".join(lines) + "\r\n\r\n{").encode())
    return client


def half_in_chunks(server: Server, key: str) -> socket.socket:
    """The same, of a length that is not told."""
    client = socket.create_connection(("127.0.0.1", server.port), 10)
    head = f"POST /search HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nauthorization: Bearer {key}\r\n"
    client.sendall(f"{head}\r\n5\r\n{{".encode())
    return client


@pytest.mark.parametrize("path", ["/get-online-features", "/search", "/console/login"])
def test_bodies_that_do_not_come_take_nobody_elses_place(keyed: Server, key: str, path: str) -> None:
    """The server works on four requests at once and lets none wait; 40 slow ones are at it, without a key."""
    with ExitStack() as slow:
        for _ in range(40):
            slow.enter_context(half_a_request(keyed, path))
        for _ in range(20):
            assert keyed.ask("/get-online-features", TEMP, bearer(key))[0] == 200


def test_the_key_is_looked_at_before_the_body(keyed: Server, key: str) -> None:
    with half_a_request(keyed, "/get-online-features") as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 401 ")
    with half_a_request(keyed, "/get-online-features", **bearer(key)) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 503 ")
    with half_in_chunks(keyed, key) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 503 ")


def test_a_refused_request_leaves_its_connection_open(keyed: Server, key: str) -> None:
    """The body that comes after the head is taken off the connection, so that the next request finds it as it was."""
    with half_a_request(keyed, "/get-online-features") as client:
        time.sleep(0.1)
        client.sendall(b" " * 998 + b"}")
        assert client.recv(1000).startswith(b"HTTP/1.1 401 ")
        head = f"POST /get-online-features HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n"
        body = orjson.dumps(TEMP)
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def session(server: Server, key: str) -> str:
    """The cookie of who has shown the key."""
    asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    form = {"content-type": "application/x-www-form-urlencoded", "origin": server.url}
    asked.request("POST", "/console/login", urlencode({"key": key}), form)
    cookie = asked.getresponse().headers["set-cookie"]
    asked.close()
    return cookie.partition(";")[0]


def test_the_session_is_looked_at_before_the_form(keyed: Server, key: str) -> None:
    for cookie in ({}, {"cookie": "millrace_console=0123456789abcdef.1.x.y"}):
        with half_a_request(keyed, "/console/lookup", **cookie) as client:
            answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 303 ") and b"location: /console/login" in answer
    with half_a_request(keyed, "/console/lookup", cookie=session(keyed, key)) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 503 ")


def test_forms_are_bounded(keyed: Server, key: str) -> None:
    with half_a_request(keyed, "/console/login", 1 << 20) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
    with half_a_request(keyed, "/console/lookup", (64 << 10) + 1, cookie=session(keyed, key)) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_name_is_not_logged_for_who_has_no_key(keyed: Server, key: str) -> None:
    name, before = "x" * 3_000, len(keyed.output.read_text())
    asked = {"feature_service": name, "entities": TEMP["entities"]}
    before = len(keyed.output.read_text())
    assert keyed.ask("/get-online-features", asked)[0] == 401
    assert keyed.ask("/get-online-features", asked, bearer(key))[0] == 404
    # Both lines are there then: they are written in the order of the answers.
    waited(lambda: "status=404" in keyed.output.read_text()[before:], "the line of the last request", 20)
    said = keyed.output.read_text()[before:]
    assert "status=401" in said and "x" * 101 not in said


def test_a_client_that_leaves_is_no_error_of_the_servers(keyed: Server, key: str) -> None:
    before = len(keyed.output.read_text())
    half_a_request(keyed, "/get-online-features", **bearer(key)).close()
    half_in_chunks(keyed, key).close()
    waited(
        lambda: keyed.output.read_text()[before:].count("status=400") >= 2,
        "a line of each request",
        told=keyed.output.read_text,
    )
    said = keyed.output.read_text()[before:]
    assert "ERROR" not in said and "Traceback" not in said


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_what_describes_the_features_needs_a_key(keyed: Server, key: str, path: str) -> None:
    assert keyed.ask(path)[0] == 401
    assert keyed.ask(path, headers=bearer(key))[0] == 200
    for probed in ("/health", "/ready", "/metrics"):
        assert keyed.ask(probed)[0] == 200


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_a_key_for_a_service_is_described_no_other(keyed: Server, repo: Path, path: str) -> None:
    """Nor what is personal data, to a key that is not for it: `airports:name` is."""
    texts = {}
    for name, services in (("scoped", ("felt",)), ("whole", ())):
        made = make_key(f"{name}{path.replace('/', '-')}", services)
        assert access_keys(open_repo(repo, repo / "no-stack")).add(made.stored)
        found = until(partial(described, keyed, path, made.text))
        texts[name] = found if isinstance(found, str) else json.dumps(found)
    assert "departure" not in texts["scoped"] and "weather" not in texts["scoped"] and "felt" in texts["scoped"]
    assert "airports:name" not in texts["whole"]
    if path == "/docs":
        assert "departure" in texts["whole"] and "weather" in texts["whole"]
    until(lambda: re.search(r'key=whole\S+ views="" entities=0 status=200', keyed.output.read_text()))


def described(server: Server, path: str, key: str) -> Any:
    """None until the key is known."""
    status, found = server.ask(path, headers=bearer(key))
    return found if status == 200 else None


def asked_as(server: Server, host: str, path: str = "/get-online-features") -> int:
    return server.ask(path, TEMP if path == "/get-online-features" else None, {"host": host})[0]


def test_without_keys_it_is_asked_by_its_own_names_only(repo: Path) -> None:
    """A page of another site that has its name resolve to 127.0.0.1 reads nothing."""
    with millrace(repo, hosts="features.internal, Other") as server:
        for own in (f"localhost:{server.port}", "127.0.0.1", "[::1]:1", "LOCALHOST", "features.internal:6566", "other"):
            assert asked_as(server, own) == 200
        for path in ("/get-online-features", "/health", "/docs", "/metrics", "/console"):
            assert asked_as(server, f"evil.example:{server.port}", path) == 403
        for odd in ("[", "evil.example", "localhost.evil.example", "localhost@evil.example", ""):
            assert asked_as(server, odd) == 403


def test_off_loopback_names_are_looked_at_where_they_are_set(repo: Path) -> None:
    with millrace(repo, "--host", "0.0.0.0", "--without-keys") as server:
        assert asked_as(server, "any.example") == 200
    with millrace(repo, "--host", "0.0.0.0", "--without-keys", hosts="server") as server:
        assert asked_as(server, "any.example") == 403
        assert asked_as(server, "server:6566") == 200


def test_entities_times_features_are_bounded(repo: Path) -> None:
    port = choose_ports(("grpc",), {})["grpc"]
    with millrace(repo, "--grpc-port", str(port), cells=30, features=3) as server:
        for fields, most in (({"feature_service": "departure"}, 10), ({"features": ["weather:temp"]}, 30)):
            asked = {**fields, "entities": {"origin": ["EWR"] * most}}
            status, answer = server.features(**asked)
            assert status == 200 and len(answer["results"][0]["values"]) == most
            asked["entities"] = {"origin": ["EWR"] * (most + 1)}
            status, answer = server.features(**asked)
            assert status == 413 and "at most 30 values" in answer["detail"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = GetOnlineFeaturesRequest(feature_service="departure")
            request.entities["origin"].val.extend([Value(string_val="EWR")] * 11)
            with pytest.raises(grpc.RpcError) as refused:
                ServingServiceStub(channel).GetOnlineFeatures(request, timeout=30)
        error: Any = refused.value
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "at most 30 values" in error.details()
    with millrace(repo, features=1) as server:
        status, answer = server.features(feature_service="departure", entities={"origin": ["EWR"]})
        assert status == 413 and "at most 1 are answered" in answer["detail"]
