"""TLS from files: a changed certificate is served without a failed request, strangers are kept out."""

import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
from cryptography import x509
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub

from millrace.client import Client, ClientError, Tls, Unavailable, Unreachable
from millrace.stack.ports import choose_ports
from tests.certificates import Authority
from tests.integration.serving_repo import Server, until
from tests.waiting import waited

RETRY = """{"methodConfig": [{"name": [{}], "retryPolicy": {
    "maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]}}]}"""
"""As docs/serving-access.md tells a gRPC client: a request is cancelled unread that arrives as its process ends."""


def ask(port: int, context: ssl.SSLContext) -> tuple[int, bytes]:
    """The serial number of the certificate that answers, and the start of its response."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number, connection.recv(65_536)


def ask_again(port: int, context: ssl.SSLContext, answers: bool = True) -> tuple[int, bytes]:
    """As `ask`; on another connection, as every client does, where the process that took one ends before it answers.
    gRPC's port `answers` no such request, but shows its certificate."""
    for _ in range(10):
        with suppress(ConnectionError, ssl.SSLEOFError):
            serial, response = ask(port, context)
            if response or not answers:
                return serial, response
    raise AssertionError("ten connections in a row were closed without a response")


def ask_once_up(port: int, context: ssl.SSLContext) -> tuple[int, bytes]:
    for _ in range(300):
        try:
            return ask(port, context)
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise AssertionError("the server does not listen")


def test_clients_without_a_certificate_of_ours_are_kept_out(repo: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    serial = authority.sign("server", cert, key)
    authority.sign("client", tmp_path / "client.crt", tmp_path / "client.key")
    Authority(tmp_path, "stranger").sign("client", tmp_path / "stranger.crt", tmp_path / "stranger.key")
    known = ssl.create_default_context(cafile=authority.certificate)
    known.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
    server = tls_server(repo, "1", TLS_CERT=cert, TLS_KEY=key, TLS_CLIENT_CA=authority.certificate)
    with server_running(server):
        found, response = ask_once_up(server.port, known)
        assert found == serial and response.startswith(b"HTTP/1.1 404")
        stranger = ssl.create_default_context(cafile=authority.certificate)
        for pair in (None, (tmp_path / "stranger.crt", tmp_path / "stranger.key")):
            if pair is not None:
                stranger.load_cert_chain(*pair)
            assert kept_out(server.port, stranger)
        old = ssl.create_default_context(cafile=authority.certificate)
        old.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert kept_out(server.port, old)


def test_another_authority_of_clients_counts_once_its_file_says_so(repo: Path, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "theirs")
    cert, key, authorities = tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "clients.crt"
    ours.sign("server", cert, key)
    authorities.write_bytes(ours.certificate.read_bytes())
    clients = []
    for name, authority in (("ours", ours), ("theirs", theirs)):
        pair = tmp_path / f"{name}-client.crt", tmp_path / f"{name}-client.key"
        authority.sign(f"{name} client", *pair)
        context = ssl.create_default_context(cafile=ours.certificate)
        context.load_cert_chain(*pair)
        clients.append(context)
    server = tls_server(repo, "1", TLS_CERT=cert, TLS_KEY=key, TLS_CLIENT_CA=authorities)
    with server_running(server):
        assert ask_once_up(server.port, clients[0])[1].startswith(b"HTTP/1.1 404")
        assert kept_out(server.port, clients[1])
        replaced = tmp_path / "replaced"
        replaced.write_bytes(theirs.certificate.read_bytes())
        replaced.replace(authorities)
        until(lambda: not kept_out(server.port, clients[1]))
        until(lambda: kept_out(server.port, clients[0]))


def test_millrace_serve_replaces_its_certificate_under_requests(repo: Path, tmp_path: Path) -> None:
    """Clients with certificates of their own ask all the time, by HTTP on kept connections and on new ones, and by
    gRPC: none is told of the change. A connection that the old process accepts as it ends is closed without a response,
    and a gRPC request that arrives then is cancelled; clients ask again by themselves, gRPC's by their retry policy."""
    authority = Authority(tmp_path)
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    first = authority.sign("server", cert, key)
    tls = Tls(authority.certificate, tmp_path / "client.crt", tmp_path / "client.key")
    assert tls.cert is not None and tls.key is not None
    authority.sign("client", tls.cert, tls.key)
    grpc_port = choose_ports(("grpc",), {})["grpc"]
    files = {"TLS_CERT": cert, "TLS_KEY": key, "TLS_CLIENT_CA": authority.certificate}
    server = tls_server(repo, "1", "--grpc-port", str(grpc_port), **files)
    url, stop = f"https://localhost:{server.port}", threading.Event()

    def by_http(kept: bool) -> tuple[int, list[str]]:
        asked, failed = 0, []
        client = Client(url, tls=tls, timeout=10)
        while not stop.wait(0.005):
            if not kept:
                client.close()
                client = Client(url, tls=tls, timeout=10)
            try:
                found = client.get_online_features(["weather:temp"], entities={"origin": ["EWR"]})
                asked += found.values["temp"] == [39.25]
            except ClientError as error:
                failed.append(repr(error))
        client.close()
        return asked, failed

    def by_grpc() -> tuple[int, list[str]]:
        asked, failed = 0, []
        request = GetOnlineFeaturesRequest()
        request.features.val.append("weather:temp")
        request.entities["origin"].val.add(string_val="EWR")
        assert tls.cert is not None and tls.key is not None
        pems = (authority.certificate.read_bytes(), tls.key.read_bytes(), tls.cert.read_bytes())
        options = [("grpc.service_config", RETRY)]
        with grpc.secure_channel(f"localhost:{grpc_port}", grpc.ssl_channel_credentials(*pems), options) as channel:
            stub = ServingServiceStub(channel)
            while not stop.wait(0.005):
                try:
                    answer = stub.GetOnlineFeatures(request, timeout=10)
                    asked += answer.results[1].values[0].double_val == 39.25
                except grpc.RpcError as error:
                    failed.append(str(error))
        return asked, failed

    known, ports = ssl.create_default_context(cafile=authority.certificate), ((server.port, True), (grpc_port, False))
    known.load_cert_chain(tls.cert, tls.key)
    with server_running(server), ThreadPoolExecutor(4) as pool:
        try:
            assert ask_once_up(server.port, known)[0] == ask_once_up(grpc_port, known)[0] == first
            asking = [pool.submit(by_http, kept) for kept in (True, True, False)] + [pool.submit(by_grpc)]
            time.sleep(1)
            second = authority.sign("server", cert, key)
            alike = 0

            def new_alone() -> bool:
                nonlocal alike
                alike = alike + 1 if {ask_again(port, known, answers)[0] for port, answers in ports} == {second} else 0
                return alike == 20  # the old process answers, too, until it ends

            waited(new_alone, "the new certificate alone", told=server.output.read_text)
        finally:
            stop.set()
        told = [future.result() for future in asking]
    print(told)
    assert [failed for _, failed in told] == [[]] * 4, told
    assert min(asked for asked, _ in told) > 20, told
    assert "event=tls_loaded" in server.output.read_text()


def test_a_certificate_waits_while_the_registry_is_away_and_all_goes_on(repo: Path, tmp_path: Path) -> None:
    """Old processes would end for new ones that have no registry to answer from. One that is killed just then is
    replaced by one that waits for the registry, and ends none of the others."""
    authority = Authority(tmp_path)
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    first = authority.sign("server", cert, key)
    known = ssl.create_default_context(cafile=authority.certificate)
    server = tls_server(repo, "2", TLS_CERT=cert, TLS_KEY=key)
    url = f"https://localhost:{server.port}"

    def asked() -> str:
        """On a new connection, which any of the processes may take; again on another one where that process ends."""
        while True:
            with Client(url, tls=Tls(authority.certificate), timeout=10, retries=0) as client:
                try:
                    found = client.get_online_features(["weather:temp"], entities={"origin": ["EWR"]})
                except Unavailable as error:
                    return str(error)
                except Unreachable:
                    continue
                return str(found.values["temp"])

    registry, aside = repo / "registry.db", tmp_path / "registry.db"
    with server_running(server):
        until(lambda: listeners(server.port) == 2)  # both have read the first certificate
        assert ask_once_up(server.port, known)[0] == first and asked() == "[39.25]"
        registry.rename(aside)
        try:
            second = authority.sign("server", cert, key)
            until(lambda: "event=tls_postponed" in server.output.read_text())
            assert {asked() for _ in range(20)} == {"[39.25]"} and ask(server.port, known)[0] == first
            assert server.process is not None
            os.kill(children(server.process.pid)[0], signal.SIGKILL)
            told = until(lambda: {answer for answer in (asked() for _ in range(20)) if answer != "[39.25]"})
            assert told == {"503: the registry is unavailable; try again"}
            assert "[39.25]" in {asked() for _ in range(40)}
        finally:
            aside.rename(registry)
        until(lambda: {ask_again(server.port, known)[0] for _ in range(20)} == {second}, 60)
        until(lambda: {asked() for _ in range(20)} == {"[39.25]"})


def kept_out(port: int, context: ssl.SSLContext) -> bool:
    """Whether no answer is had: by TLS 1.3 a client learns that it is refused only as it reads."""
    with suppress(ssl.SSLError, ConnectionError):
        return ask(port, context)[1] == b""
    return True


def tls_server(repo: Path, workers: str, *options: str, **files: Path) -> Server:
    places = ["--repo", str(repo), "--stack", str(repo / "no-stack"), "--port", "PORT", "--workers", workers]
    server = Server([sys.executable, "-m", "millrace.cli", "serve", *places, *options], repo)
    server.settings = {f"MILLRACE__SERVE__{name}": str(path) for name, path in files.items()}
    return server


def listeners(port: int) -> int:
    """The sockets that listen on a port of 127.0.0.1."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(local.endswith(f":{port:04X}") and state == "0A" for _, local, _, state, *_ in lines)


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@contextmanager
def server_running(server: Server) -> Iterator[None]:
    server.start_without_asking()
    try:
        yield
    finally:
        assert server.stop() == 0
