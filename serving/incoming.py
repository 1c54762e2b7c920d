"""One HTTP request as it arrives: its head, and its body as far as it has come."""

import asyncio
from typing import Protocol
from urllib.parse import unquote

from httptools import parse_url

from serving.refusals import Answer, ClientLeft
from serving.request import TooLarge


class Line(Protocol):
    """Where a request came from, and its answer goes: `serving.connection.Connection`."""

    def wanted(self, expected: bool) -> None:
        """Somebody waits for the body of the request that is worked on; the client may have `expected` to be told."""

    def send(self, request: "HttpRequest", answer: Answer) -> None:
        """The answer of the request that is worked on."""

    async def taken(self) -> None:
        """Returns once what was sent has left, but for what the transport keeps."""


class HttpRequest:
    """One request, of which the head has come, and the body as far as it has."""

    __slots__ = (
        "_connection",
        "_headers",
        "_left",
        "_most",
        "_parts",
        "_size",
        "_waiting",
        "ended",
        "keep_alive",
        "method",
        "path",
        "query",
    )

    def __init__(self, connection: Line, method: str, url: bytes, headers: dict[bytes, bytes]) -> None:
        """Raises `HttpParserError` for a URL that is none."""
        if not url.startswith(b"/"):
            url = _origin_form(url, headers)
        path, _, query = url.decode("latin-1").partition("?")
        self.method = method
        self.path = unquote(path) if "%" in path else path
        self.query = query
        self.keep_alive = True
        self.ended = False
        """Whether its body has come whole."""
        self._connection = connection
        self._headers = headers
        self._parts: list[bytes] = []
        self._size = 0
        self._most = -1
        self._left = False
        self._waiting: asyncio.Future[None] | None = None

    def header(self, name: str) -> str | None:
        """A header's value by its name in small letters; the first one's, where it came more than once."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    async def body(self, most: int) -> bytes:
        """The body, once it has come whole. Raises `TooLarge` beyond `most` bytes, and `ClientLeft`."""
        told = self._headers.get(b"content-length")
        if told is not None and int(told) > most:
            raise TooLarge(f"the body has {int(told)} bytes; at most {most} are read")
        self._most = most
        if not (self.ended or self._left or self._size > most):
            await self._arrival()
        if self._left and not self.ended:
            raise ClientLeft
        if self._size > most:
            raise TooLarge(f"the body has more than {most} bytes")
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def send(self, answer: Answer) -> None:
        """Answer it. What is left of its body is read no more, and closes the connection."""
        self._connection.send(self, answer)

    async def taken(self) -> None:
        """Returns once the client has taken the answer, but for what the transport keeps, or has left."""
        await self._connection.taken()

    @property
    def told_to_keep(self) -> bool:
        """Whether the client says what becomes of the connection: one of HTTP/1.0 that would keep it has to hear it."""
        return b"connection" in self._headers

    @property
    def ahead(self) -> int:
        """Bytes of its body that nobody has asked for."""
        return self._size if self._most < 0 else 0

    def add(self, data: bytes) -> None:
        """A part of its body has come; beyond what is asked for it is dropped."""
        self._size += len(data)
        if self._most < 0 or self._size <= self._most:
            self._parts.append(data)
        else:
            self._wake()

    def complete(self) -> None:
        """Its body has come whole."""
        self.ended = True
        self._wake()

    def leave(self) -> None:
        """No more will come."""
        self._left = True
        self._wake()

    async def _arrival(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        self._connection.wanted(self._headers.get(b"expect", b"").lower() == b"100-continue" and not self._size)
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _origin_form(url: bytes, headers: dict[bytes, bytes]) -> bytes:
    """A URL as proxies are sent it, without its host, which counts instead of the header (RFC 9112, 3.2.2); `*`, and
    the address of a CONNECT, as they are."""
    if b"://" not in url:
        return url
    parsed = parse_url(url)
    if parsed.host:
        host = b"[%b]" % parsed.host if b":" in parsed.host else parsed.host
        headers[b"host"] = host + (b":%d" % parsed.port if parsed.port else b"")
    return (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
