"""`millrace serve` where strangers reach it: what they may send, and what they cannot keep others from."""

import http.client
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from millrace.repo import open_repo
from millrace.wiring import access_keys
from serving.keys import make_key
from tests.certificates import Authority
from tests.integration.serving_repo import Server, millrace

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


@contextmanager
def over_tls(repo: Path, cert: Path, private: Path) -> Iterator[Server]:
    """A server with keys that is asked by TLS."""
    command = [sys.executable, "-m", "millrace.cli", "serve", "--repo", str(repo), "--stack", str(repo / "no-stack")]
    server = Server([*command, "--port", "PORT", "--workers", "1", "--with-keys"], repo)
    server.settings = {"MILLRACE__SERVE__TLS_CERT": str(cert), "MILLRACE__SERVE__TLS_KEY": str(private)}
    process = server.start_without_asking()
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("localhost", server.port), 10).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline and process.poll() is None, server.output.read_text()
                time.sleep(0.1)
        yield server
    finally:
        server.stop()


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


def test_the_console_over_tls_and_no_second_protocol(repo: Path, tmp_path: Path, key: str) -> None:
    """The limits of a head, and the console's look at the Host header, are those of HTTP/1.1."""
    authority = Authority(tmp_path)
    cert, private = tmp_path / "tls.crt", tmp_path / "tls.key"
    authority.sign("server", cert, private)
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    with over_tls(repo, cert, private) as server:
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
