"""Bytes that are no whole HTTP request: bodies cut off, broken chunks, headers and request lines of garbage."""

import json
import random
from collections.abc import Iterator

from tests.fuzz.requests import POSTS, VALID

LENGTHS = ("0", "1", "5", "-1", "+7", "0x10", "1e3", "x", "", "18446744073709551616", "999999", "7, 7", "7, 8", "\x00")
SIZES = (
    "0",
    "5",
    "-5",
    "zz",
    "",
    "ffffffffffffffff",
    "fffffffffffffffff",
    "7fffffff",
    "5;a=b",
    "5" + ";" * 20_000,
    " 5",
)
HEADERS = (
    b"no colon here",
    b": no name",
    b"x\x00y: z",
    b"x: \x00",
    b"x: \xff\xfe",
    b" folded: from nothing",
    b"x: " + b"y" * 100_000,
    b"\r\n".join(b"x%d: y" % number for number in range(1_000)),
    b"content-length: 3\r\ncontent-length: 4",
    b"transfer-encoding: gzip, chunked",
    b"transfer-encoding: chunked, identity",
    b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13",
    b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk",
    b"expect: 100-continue",
    b"host: a\r\nhost: b",
    b"authorization: Bearer mr_\x80",
)
LINES = (
    b"",
    b"\r\n\r\n",
    b"GET",
    b"GET /health",
    b"GET /health HTTP/9.9",
    b"GET /health HTTP/1.0",
    b"get /health http/1.1",
    b"GET  /health  HTTP/1.1",
    b"GET http://elsewhere/health HTTP/1.1",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1",
    b"GET /\x00 HTTP/1.1",
    b"CONNECT here:80 HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)


def broken(chance: random.Random, count: int) -> Iterator[bytes]:
    """So many of them: what is sent on a connection before its sending side is closed."""
    kinds = (_cut_off, _wrong_length, _chunked, _both, _header, _line, _after_another, _noise)
    for _ in range(count):
        yield chance.choice(kinds)(chance)


def _body(chance: random.Random) -> bytes:
    return json.dumps(chance.choice(VALID)).encode()


def _head(chance: random.Random, *headers: bytes) -> bytes:
    line = b"POST " + chance.choice(POSTS).encode() + b" HTTP/1.1"
    return b"\r\n".join((line, b"host: localhost", b"content-type: application/json", *headers, b"", b""))


def _whole(chance: random.Random) -> bytes:
    body = _body(chance)
    return _head(chance, b"content-length: %d" % len(body)) + body


def _cut_off(chance: random.Random) -> bytes:
    whole = _whole(chance)
    return whole[: chance.randrange(len(whole))]


def _wrong_length(chance: random.Random) -> bytes:
    return _head(chance, b"content-length: " + chance.choice(LENGTHS).encode()) + _body(chance)


def _chunked(chance: random.Random) -> bytes:
    body, chunks = _body(chance), []
    for _ in range(chance.randrange(1, 5)):
        size = chance.choice((f"{len(body):x}", chance.choice(SIZES)))
        chunks.append(size.encode() + chance.choice((b"\r\n", b"\r\n", b"\n", b"")) + body + b"\r\n")
    end = chance.choice((b"0\r\n\r\n", b"0\r\n", b"", b"0\r\nx: y\r\n\r\n", b"0\r\n" + b"x: y\r\n" * 1_000 + b"\r\n"))
    return _head(chance, b"transfer-encoding: chunked") + b"".join(chunks) + end


def _both(chance: random.Random) -> bytes:
    body = _body(chance)
    head = _head(chance, b"content-length: %d" % chance.choice((0, 4, len(body))), b"transfer-encoding: chunked")
    return head + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n" + _whole(chance)


def _header(chance: random.Random) -> bytes:
    body = _body(chance)
    return _head(chance, chance.choice(HEADERS), b"content-length: %d" % len(body)) + body


def _line(chance: random.Random) -> bytes:
    return chance.choice(LINES) + chance.choice((b"\r\nhost: localhost\r\n\r\n", b"\r\n\r\n", b"\n\n", b""))


def _after_another(chance: random.Random) -> bytes:
    """A whole request, and something else behind it on its connection."""
    return _whole(chance) + chance.choice((_whole, _cut_off, _line, _noise))(chance)


def _noise(chance: random.Random) -> bytes:
    whole = bytearray(_whole(chance))
    for _ in range(chance.randrange(1, 6)):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    return bytes(whole)
