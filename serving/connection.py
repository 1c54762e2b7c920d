"""HTTP/1.1 on the connections of one process (RFC 9112): requests as they arrive, and their answers in that order.

llhttp, the parser of Node.js, reads them, and takes nothing that two readers could understand in two ways: a body of
two lengths, a header without an end of its line. It and `serving.incoming` are the doors to httptools.

What a client sends is held only as far as somebody waits for it: `BODY_AHEAD` bytes of a body that nobody has asked
for, `AHEAD` requests behind the one that is worked on. What it does not take is not made anew: its next request is
looked at once the answer before has left, but for what the transport keeps (64 KiB).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from serving.incoming import HttpRequest
from serving.refusals import RETRY, Answer, refused

HEAD_BYTES = 64 << 10
"""Of a request's line and headers; more is answered 431."""
BODY_AHEAD = 64 << 10
AHEAD = 16
COPIED_BYTES = 64 << 10
"""An answer of fewer leaves in one piece; one of more is not copied."""
SWEEP_SECONDS = 0.5
ONCE = frozenset({b"host", b"authorization", b"content-type"})
"""Headers that must not come twice: readers before this one may go by the other."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Seconds for the head of a request, counted from the answer before; connections of a process."""

    header_seconds: float
    connections: int


Answering = Callable[[HttpRequest], Coroutine[Any, Any, None]]
"""Answers a request, by its `send`, and raises nothing."""


class Connections:
    """The open connections of one process; all of them within one event loop."""

    def __init__(self, answering: Answering, limits: ConnectionLimits) -> None:
        self.answering = answering
        self.limits = limits
        self.ending = False
        """Whether each connection ends with the answer that it is at."""
        self._open: set[Connection] = set()

    def open(self) -> asyncio.Protocol:
        """What a new connection is handed to."""
        return Connection(self)

    def add(self, connection: "Connection") -> bool:
        """Whether there is room for it."""
        if len(self._open) >= self.limits.connections:
            return False
        self._open.add(connection)
        return True

    def remove(self, connection: "Connection") -> None:
        """It is closed."""
        self._open.discard(connection)

    async def sweep(self) -> None:
        """Closes those that bring no request in time, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self.limits.header_seconds / 4))
            idle_since = loop.time() - self.limits.header_seconds
            for connection in [one for one in self._open if one.idle_since < idle_since]:
                connection.close()

    async def end(self, seconds: float) -> None:
        """Close them all, those that have begun a request once it is answered, or after so many seconds."""
        self.ending = True
        for connection in list(self._open):
            connection.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open:
                    await asyncio.sleep(0.02)


class Connection(asyncio.Protocol):
    """One connection. The methods that begin with `on_` are llhttp's."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser = HttpRequestParser(self)
        self._transport: Any = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._in_head = False
        self._head_bytes = 0
        self._silent_bytes = 0
        self._heard = False
        self._incoming: HttpRequest | None = None
        self._requests: deque[HttpRequest] = deque()
        self._task: asyncio.Future[None] | None = None
        self._held = False
        self._over = False
        """Whether nothing more is read of it."""
        self._taken: asyncio.Future[None] | None = None
        self._since = self._loop.time()

    @property
    def idle_since(self) -> float:
        """Since when no request is worked on and no answer under way (the loop's time)."""
        return float("inf") if self._requests or self._taken is not None else self._since

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if not self._connections.add(self):
            self._refuse(refused(503, "overloaded", "the server has as many connections as it can take", RETRY))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self._over = None, True
        self._connections.remove(self)
        if self._incoming is not None:
            self._incoming.leave()
        self.resume_writing()

    def eof_received(self) -> bool:
        """No more will come; what has come is answered, but by TLS, which ends both ways at once."""
        self._over = True
        if self._incoming is not None:
            self._incoming.leave()
        return bool(self._requests) and self._transport.get_extra_info("sslcontext") is None

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._heard = False
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._over = True  # another protocol is not spoken: the request is answered as it is
        except HttpParserError as error:
            self._broken(error)
        self._silent_bytes = 0 if self._heard else self._silent_bytes + len(data)
        if self._silent_bytes > HEAD_BYTES and not self._over:
            self._broken(_HeadTooLarge())  # a head, or headers behind a body, without an end
        self._flow()

    def on_message_begin(self) -> None:
        self._url, self._headers, self._head_bytes, self._in_head = b"", {}, 0, True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._incoming is not None:  # behind a body in chunks: nobody asks for these
            return
        name = name.lower()
        if name in self._headers:
            if name in ONCE:
                raise HttpParserError(f"the header {name.decode('latin-1')} comes twice")
        else:
            self._headers[name] = value
        self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        self._in_head, self._heard = False, True
        if self._head_bytes + len(self._url) > HEAD_BYTES:
            raise _HeadTooLarge
        request = HttpRequest(self, self._parser.get_method().decode(), self._url, self._headers)
        request.keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        self._incoming = request
        self._requests.append(request)
        if len(self._requests) == 1:
            self._begin_next()

    def on_body(self, data: bytes) -> None:
        assert self._incoming is not None  # its head has come
        self._heard = True
        self._incoming.add(data)

    def on_message_complete(self) -> None:
        self._heard = True
        if self._incoming is not None:
            self._incoming.complete()
        self._incoming = None

    def pause_writing(self) -> None:
        self._taken = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._taken is not None:
            self._taken.set_result(None)
            self._taken, self._since = None, self._loop.time()
            self._begin_next()

    async def taken(self) -> None:
        """Returns once what was sent has left, but for what the transport keeps."""
        if self._taken is not None:
            await asyncio.shield(self._taken)

    def wanted(self, expected: bool) -> None:
        """Somebody waits for the body of the request that is worked on; the client may have `expected` to be told."""
        if expected and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._flow()

    def send(self, request: HttpRequest, answer: Answer) -> None:
        """The answer of the request that is worked on; the next one begins."""
        self._requests.popleft()
        if self._transport is None:
            return
        keep = request.keep_alive and request.ended and not self._connections.ending
        body = b"" if request.method == "HEAD" else answer.body
        head = _head(answer, keep, request.told_to_keep)
        if len(body) < COPIED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        self._since = self._loop.time()
        if not keep and not request.ended:
            self._linger()
        elif not keep:
            self.close()
        elif self._requests:
            self._begin_next()
            self._flow()
        elif self._over and self._incoming is None:
            self.close()

    def end(self) -> None:
        """Close it, once what has begun is answered."""
        if not (self._requests or self._in_head):
            self.close()

    def close(self) -> None:
        """Close it, once what was sent has left."""
        self._over = True
        self._requests.clear()
        if self._transport is not None:
            self._transport.close()

    def _begin_next(self) -> None:
        if self._requests and self._taken is None and self._transport is not None:
            self._task = self._loop.create_task(self._connections.answering(self._requests[0]))

    def _flow(self) -> None:
        """Read no more than somebody waits for."""
        held = len(self._requests) > AHEAD or (self._incoming is not None and self._incoming.ahead > BODY_AHEAD)
        if held == self._held or self._transport is None or self._transport.is_closing():
            return
        self._held = held
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _broken(self, error: Exception) -> None:
        """What comes is no HTTP, or too much of it. What came before is answered first."""
        self._over = True
        if self._incoming is not None:
            self._incoming.leave()
        elif not self._requests:
            self._refuse(
                refused(431, "head_too_large", f"at most {HEAD_BYTES} bytes of a request's head are read")
                if isinstance(error.__context__ or error, _HeadTooLarge)
                else refused(400, "bad_request", f"this is no HTTP/1.1 request: {error.__context__ or error}")
            )

    def _refuse(self, answer: Answer) -> None:
        self._transport.write(_head(answer, False, False) + answer.body)
        self._linger()

    def _linger(self) -> None:
        """Read on, and drop it, until the client has the answer and closes, or a head would have had to come: closed
        with bytes unread, its system would throw the answer away (RFC 9112, 9.6). TLS cannot be closed by half."""
        self._over, self._in_head, self._incoming = True, False, None
        self._requests.clear()
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        self._flow()


class _HeadTooLarge(Exception):
    """A request's line and headers have more than `HEAD_BYTES`."""


def _head(answer: Answer, keep: bool, told: bool) -> bytes:
    """Up to the body. Whether the connection is kept is `told` of one that is, too."""
    return b"HTTP/1.1 %b\r\ndate: %b\r\n%bcontent-length: %d\r\n%b\r\n" % (
        _status(answer.status),
        _date(int(time.time())),
        _lines(tuple(answer.headers)),
        len(answer.body),
        (b"connection: keep-alive\r\n" if told else b"") if keep else b"connection: close\r\n",
    )


@lru_cache
def _status(status: int) -> bytes:
    return f"{status} {HTTPStatus(status).phrase}".encode()


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


@lru_cache
def _lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
