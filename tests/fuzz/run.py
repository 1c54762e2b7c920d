"""Sends the requests to a running server and judges each answer."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import BadStatusLine, HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import orjson
import psutil

from tests.fuzz.requests import Sent, by_schema, malformed

SECONDS = 20.0
"""An answer that takes longer is a hang: the server itself gives up after serve.request_seconds."""
BY_DOCUMENT = 25
DELIBERATE = frozenset({"overloaded", "store_unavailable", "timed_out", "not_ready"})
INTERNALS = (b"Traceback", b'File "', b"site-packages", b"/serving/", b"/stores/", b"0x7f", b"object at")


class Wrong(AssertionError):
    """An answer that no request may get; names the request."""


@dataclass
class Fuzz:
    """One run against a server process of the platform."""

    url: str
    process: int
    say: Callable[[str], None] = lambda text: None
    statuses: Counter[int] = field(default_factory=Counter)
    connection: HTTPConnection | None = None

    def run(self, document: dict[str, Any], number: int, requests: int) -> None:
        """About so many requests, one in `BY_DOCUMENT` by the document, which takes longer to make. Raises `Wrong`."""
        by_schema(document, number, self.send, max(10, requests // BY_DOCUMENT // 6))
        for sent in malformed(random.Random(number), requests - self.sent):
            self.send(sent)

    @property
    def sent(self) -> int:
        """Requests so far."""
        return self.statuses.total()

    def send(self, sent: Sent) -> None:
        """One request, judged. Raises `Wrong`."""
        status, body = self._exchange(sent)
        self.statuses[status] += 1
        if status >= 500 and not (status == 503 and _error(body) in DELIBERATE):
            raise Wrong(f"{status} {body[:500]!r} to {_shown(sent)}")
        if sent.path not in ("/docs", "/openapi.json") and (leaked := [x for x in INTERNALS if x in body]):
            raise Wrong(f"{leaked} in the answer {body[:500]!r} to {_shown(sent)}")
        if self.sent % 5_000 == 0:
            self.say(f"{self.sent:,} requests, {self.memory() / 1e6:,.0f} MB")

    def memory(self) -> int:
        """Bytes that the server's processes have in memory."""
        server = psutil.Process(self.process)
        return sum(process.memory_info().rss for process in (server, *server.children(recursive=True)))

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
