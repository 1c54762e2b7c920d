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
SLICE_BYTES = 4 << 10
"""What is read is parsed in slices of so many, and no further than somebody waits for it."""
TURNED_AWAY = 256
"""Connections beyond all places that are told so at a time; more are closed without a word."""
LAST_SECONDS = 1.0
"""At the end, for a client to send one more request on a connection that it keeps, whose answer tells it that this is
the last: closed while the request is on its way, it would have none."""
CLOSE_SECONDS = 1.0
"""For clients to close their side, at the end; TLS waits for that."""
COPIED_BYTES = 64 << 10
"""An answer of fewer leaves in one piece; one of more is not copied."""
SWEEP_SECONDS = 0.5
ONCE = frozenset({b"host", b"authorization", b"content-type", b"transfer-encoding"})
"""Headers that must not come twice: readers before this one may go by the other."""
HOP = frozenset({b"connection", b"upgrade", b"http2-settings"})
"""Headers of an offer to speak another protocol, which is not taken up (RFC 9110, 7.8)."""
LENGTH_DIGITS = 20


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
        self._turned_away: set[Connection] = set()

    def open(self) -> asyncio.Protocol:
        """What a new connection is handed to."""
        return Connection(self)

    def add(self, connection: "Connection") -> bool:
        """Whether there is room for it."""
        if len(self._open) < self.limits.connections:
            self._open.add(connection)
            return True
        self._turned_away.add(connection)
        return False

    @property
    def crowded(self) -> bool:
        """Whether more than can be told so have found no room."""
        return len(self._turned_away) > TURNED_AWAY

    def remove(self, connection: "Connection") -> None:
        """It is closed."""
        self._open.discard(connection)
        self._turned_away.discard(connection)

    async def sweep(self) -> None:
        """Closes those that bring no request in time, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self.limits.header_seconds / 4))
            idle_since = loop.time() - self.limits.header_seconds
            for connection in [one for one in (*self._open, *self._turned_away) if one.idle_since < idle_since]:
                connection.close()

    async def end(self, seconds: float) -> None:
        """Close them all, those that have begun a request or soon do once it is answered, or after so many seconds."""
        self.ending = True
        loop = asyncio.get_running_loop()
        next_look = loop.time() + min(LAST_SECONDS, seconds / 4)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while everybody := (*self._open, *self._turned_away):
                    if loop.time() >= next_look:
                        next_look = loop.time() + CLOSE_SECONDS
                        for connection in everybody:
                            connection.end()
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
        self._begun: HttpRequest | None = None
        self._task: asyncio.Future[None] | None = None
        self._rest = b""
        """What was read and is not parsed yet."""
        self._held = False
        self._ended = False
        """Whether the client sends no more."""
        self._over = False
        """Whether nothing more is parsed of what it sends."""
        self._closing = False
        self._plain_head = b""
        """Of a request that offers another protocol its head without the offer."""
        self._taken: asyncio.Future[None] | None = None
        self._since = self._loop.time()

    @property
    def idle_since(self) -> float:
        """Since when no request is worked on and no answer under way (the loop's time)."""
        return float("inf") if self._requests or self._taken is not None else self._since

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._connections.add(self):
            return
        if self._connections.crowded:
            transport.abort()
        else:
            self._refuse(refused(503, "overloaded", "the server has as many connections as it can take", RETRY))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self._over, self._rest = None, True, b""
        self._connections.remove(self)
        if self._incoming is not None:
            self._incoming.leave()
        self.resume_writing()

    def eof_received(self) -> bool:
        """No more will come; what has come is answered, but by TLS, which ends both ways at once."""
        self._ended = True
        self._read()
        return bool(self._requests) and self._transport.get_extra_info("sslcontext") is None

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._rest = self._rest + data if self._rest else data
        self._read()

    def _read(self) -> None:
        """Parse what has come, as far as somebody waits for it, and let no more come than that."""
        while self._rest and not self._over and not self._ahead:
            part, self._rest = self._rest[:SLICE_BYTES], self._rest[SLICE_BYTES:]
            self._heard = False
            try:
                self._parser.feed_data(part)
            except HttpParserUpgrade as offer:
                self._read_plain(part[offer.args[0] :])
            except HttpParserError as error:
                self._broken(error)
            self._silent_bytes = 0 if self._heard else self._silent_bytes + len(part)
            if self._silent_bytes > HEAD_BYTES and not self._over:
                self._broken(_HeadTooLarge())  # a head, or headers behind a body, without an end
        if self._ended and not self._rest and not self._over:
            self._over = True
            if self._incoming is not None:
                self._incoming.leave()
        self._flow()

    def _read_plain(self, behind: bytes) -> None:
        """Another protocol was offered, for which llhttp leaves what is `behind` the head unread: the offer is not
        taken up, and the request is one without it."""
        if not self._plain_head:  # a CONNECT: what is behind it is no HTTP
            self._over = True
            return
        self._parser = HttpRequestParser(self)
        self._rest, self._plain_head = self._plain_head + behind + self._rest, b""

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
        elif name == b"content-length" and len(value) > LENGTH_DIGITS:
            raise HttpParserError("Content-Length is no length")
        else:
            self._headers[name] = value
        self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        self._in_head, self._heard = False, True
        if self._head_bytes + len(self._url) > HEAD_BYTES:
            raise _HeadTooLarge
        method, version = self._parser.get_method(), self._parser.get_http_version()
        self._check(version)
        if self._parser.should_upgrade() and method != b"CONNECT":
            kept = (b"%b: %b\r\n" % header for header in self._headers.items() if header[0] not in HOP)
            self._plain_head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self._url, version.encode(), b"".join(kept))
            return
        request = HttpRequest(self, method.decode(), self._url, self._headers)
        request.keep_alive = self._parser.should_keep_alive() and method != b"CONNECT"
        self._incoming = request
        self._requests.append(request)
        if len(self._requests) == 1:
            self._begin_next()

    def _check(self, version: str) -> None:
        """Raises `HttpParserError` for a version that is not spoken, for what one of 1.0 cannot mean, and for a body in
        a form that would have to be undone."""
        if self._headers.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked":
            raise HttpParserError("no Transfer-Encoding but chunked is understood")
        if version == "1.0":
            self._headers.pop(b"expect", None)  # RFC 9110, 10.1.1
            if b"transfer-encoding" in self._headers:  # RFC 9112, 6.1
                raise HttpParserError("HTTP/1.0 has no Transfer-Encoding")
        elif version != "1.1":
            raise HttpParserError(f"HTTP/{version} is not spoken here")

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
        self._read()

    def send(self, request: HttpRequest, answer: Answer) -> None:
        """The answer of the request that is worked on; the next one begins."""
        if not self._requests or self._requests[0] is not request:
            return  # it was given up
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
        if keep:
            self._begin_next()
            self._read()
            keep = bool(self._requests) or not self._over
        if not keep and (self._ended or (request.ended and not self._rest and not self._held and not self._over)):
            self.close()
        elif not keep:
            self._linger()

    def end(self) -> None:
        """Close it, once what has begun is answered."""
        if not (self._requests or self._in_head):
            self.close()

    def close(self) -> None:
        """Close it, once what was sent has left. Called again, do not wait for the client to close its side, as TLS
        does."""
        again, self._closing = self._closing, True
        self._over, self._rest = True, b""
        self._requests.clear()
        if self._transport is None:
            return
        if again and not self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def _begin_next(self) -> None:
        """Once only: the client can take what was sent while a request is worked on."""
        if not self._requests or self._requests[0] is self._begun or self._taken is not None:
            return
        if self._transport is not None:
            self._begun = self._requests[0]
            self._task = self._loop.create_task(self._connections.answering(self._begun))

    @property
    def _ahead(self) -> bool:
        """Whether more has come than somebody waits for."""
        return len(self._requests) > AHEAD or (self._incoming is not None and self._incoming.ahead > BODY_AHEAD)

    def _flow(self) -> None:
        """Read no more than somebody waits for."""
        held = bool(self._rest) or self._ahead
        if held == self._held or self._transport is None or self._transport.is_closing():
            return
        self._held = held
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _broken(self, error: Exception) -> None:
        """What comes is no HTTP, or too much of it. What came before is answered first."""
        self._over, self._rest = True, b""
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
        self._since = self._loop.time()
        self._linger()

    def _linger(self) -> None:
        """Read on, and drop it, until the client has the answer and closes, or a head would have had to come: closed
        with bytes unread, its system would throw the answer away (RFC 9112, 9.6). TLS cannot be closed by half."""
        self._over, self._in_head, self._incoming, self._rest = True, False, None, b""
        self._requests.clear()
        if not self._transport.can_write_eof():
            self.close()
            return
        try:
            self._transport.write_eof()
        except OSError:  # the client has gone just now
            self.close()
            return
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
