"""Sends the requests to a running server and judges each answer."""

import random
import re
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.client import BadStatusLine, HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import orjson
import psutil

from tests.fuzz.framing import broken
from tests.fuzz.requests import Sent, by_schema, malformed

SECONDS = 20.0
"""An answer that takes longer is a hang: the server itself gives up after serve.request_seconds."""
BY_DOCUMENT = 25
BROKEN = 10
"""One request in so many is none by its framing."""
DELIBERATE = frozenset({"overloaded", "timed_out"})
"""What a server may answer whose stores are all well."""
INTERNALS = (b"Traceback", b'File "', b"site-packages", b"/serving/", b"/stores/", b"0x7f", b"object at")


_STATUS = re.compile(rb"(?:^|(?<=\n)|(?<=[}\]>a-z]))HTTP/1\.[01] (\d{3})")
"""Where an answer begins: the one before it may end without a line's end."""


class Wrong(AssertionError):
    """An answer that no request may get; names the request."""


@dataclass
class Fuzz:
    """One run against a server process of the platform. Where it asks for keys, `key` is sent with three of four
    requests that have none."""

    url: str
    process: int
    key: str = ""
    say: Callable[[str], None] = lambda text: None
    statuses: Counter[int] = field(default_factory=Counter)
    connection: HTTPConnection | None = None

    def run(self, document: dict[str, Any], number: int, requests: int) -> None:
        """About so many requests, one in `BY_DOCUMENT` by the document, which takes longer to make. Raises `Wrong`."""
        began = self.processes()
        by_schema(document, number, self.send, max(10, requests // BY_DOCUMENT // 6))
        chance = random.Random(number)
        for data in broken(chance, requests // BROKEN):
            self.send_raw(data)
        for sent in malformed(chance, requests - self.sent):
            self.send(sent)
        if self.processes() != began:
            raise Wrong("a process of the server ended, and another took its place: its log says when")

    @property
    def sent(self) -> int:
        """Requests so far; what was closed without an answer, as it may be where there was no request, counts as 0
        among the `statuses`."""
        return self.statuses.total()

    def send_raw(self, data: bytes) -> None:
        """Bytes on a connection of their own, of which nothing follows: what is answered is judged. Raises `Wrong`."""
        shown, answer = f"the bytes {data[:1_000]!r}", b""
        address = urlsplit(self.url)
        with socket.create_connection((address.hostname or "", address.port or 0), SECONDS) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65_536):
                    answer += part
            except TimeoutError:
                raise Wrong(f"neither answered nor closed within {SECONDS} s: {shown}") from None
            except OSError:
                pass  # closed before all was sent
        statuses = [int(status) for status in _STATUS.findall(answer)]
        self.statuses.update(statuses or [0])
        for status, body in zip(statuses, _STATUS.split(answer)[2::2], strict=True):
            self._judge(status, body.partition(b"\r\n\r\n")[2], shown, "")

    def send(self, sent: Sent) -> None:
        """One request, judged. Raises `Wrong`."""
        if self.key and "authorization" not in sent.headers and self.sent % 4:
            sent = replace(sent, headers={**sent.headers, "authorization": f"Bearer {self.key}"})
        status, body = self._exchange(sent)
        self.statuses[status] += 1
        self._judge(status, body, _shown(sent), sent.path)
        if self.sent % 5_000 == 0:
            self.say(f"{self.sent:,} requests, {self.memory() / 1e6:,.0f} MB")

    def _judge(self, status: int, body: bytes, shown: str, path: str) -> None:
        if status >= 500 and not (status == 503 and _error(body) in DELIBERATE):
            raise Wrong(f"{status} {body[:500]!r} to {shown}")
        if path not in ("/docs", "/openapi.json") and (leaked := [x for x in INTERNALS if x in body]):
            raise Wrong(f"{leaked} in the answer {body[:500]!r} to {shown}")

    def memory(self) -> int:
        """Bytes that the server's processes have in memory."""
        return sum(psutil.Process(number).memory_info().rss for number in (self.process, *self.processes()))

    def processes(self) -> set[int]:
        """Those that the server has begun."""
        return {process.pid for process in psutil.Process(self.process).children(recursive=True)}

    def _exchange(self, sent: Sent) -> tuple[int, bytes]:
        for attempt in (1, 2):
            if self.connection is None:
                self.connection = HTTPConnection(urlsplit(self.url).netloc, timeout=SECONDS)
            try:
                self.connection.request(sent.method, sent.path, sent.body, sent.headers)
                response = self.connection.getresponse()
                return response.status, response.read()
            except TimeoutError:
                raise Wrong(f"no answer within {SECONDS} s to {_shown(sent)}") from None
            except (BadStatusLine, OSError):
                # The server closes a connection whose request it could not read to its end.
                self.connection.close()
                self.connection = None
                if attempt == 2:
                    raise Wrong(f"no answer to {_shown(sent)}") from None
        raise AssertionError


def _error(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def _shown(sent: Sent) -> str:
    return f"{sent.method} {sent.path} {sent.headers} {(sent.body or b'')[:1_000]!r}"
