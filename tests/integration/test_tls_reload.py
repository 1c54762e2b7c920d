"""granian with TLS from files: a changed certificate is served without a failed request, strangers are kept out."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from millrace.stack.ports import choose_ports
from serving.tls import TlsFiles
from tests.certificates import Authority

SERVER = """
import sys
from pathlib import Path
from granian import Granian
from granian.constants import Interfaces
from serving.tls import TlsFiles, TlsWatch

async def app(scope, protocol):
    protocol.response_str(200, [], "ok")

if __name__ == "__main__":
    port, cert, key, ca = sys.argv[1:]
    files = TlsFiles(Path(cert), Path(key), Path(ca))
    server = Granian(
        "tls_server:app", port=int(port), interface=Interfaces.RSGI, workers=1, respawn_interval=1.0, **files.granian()
    )
    watch = TlsWatch(files, server.signal_handler_reload, every=0.1)
    watch.start()
    server.serve()
    watch.close()
"""


@contextmanager
def serving(folder: Path, files: TlsFiles) -> Iterator[int]:
    port = choose_ports(("tls",), {})["tls"]
    (folder / "tls_server.py").write_text(SERVER)
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    command = [sys.executable, "tls_server.py", str(port), *map(str, files.files)]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": path})
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


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


def ask_once_up(port: int, context: ssl.SSLContext) -> tuple[int, bytes]:
    for _ in range(300):
        try:
            return ask(port, context)
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise AssertionError("the server does not listen")


def test_a_certificate_is_replaced_under_requests_and_clients_are_checked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", authority.certificate)
    first = authority.sign("server", files.cert, files.key)
    authority.sign("client", tmp_path / "client.crt", tmp_path / "client.key")
    Authority(tmp_path, "stranger").sign("client", tmp_path / "stranger.crt", tmp_path / "stranger.key")
    known = ssl.create_default_context(cafile=authority.certificate)
    known.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
    with serving(tmp_path, files) as port:
        serial, response = ask_once_up(port, known)
        assert serial == first and response.startswith(b"HTTP/1.1 200")

        stranger = ssl.create_default_context(cafile=authority.certificate)
        for pair in (None, (tmp_path / "stranger.crt", tmp_path / "stranger.key")):
            if pair is not None:
                stranger.load_cert_chain(*pair)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(port, stranger)

        second = authority.sign("server", files.cert, files.key)
        for _ in range(600):
            serial, response = ask(port, known)  # a failed request would raise here
            assert response.startswith(b"HTTP/1.1 200")
            if serial == second:
                break
            time.sleep(0.02)
        assert serial == second
        for _ in range(100):  # while the old worker ends
            serial, response = ask(port, known)
            assert response.startswith(b"HTTP/1.1 200")
            time.sleep(0.02)
        assert serial == second
