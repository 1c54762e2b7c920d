"""HTTP/1.1 as clients speak it, well and badly, to the connections of a process, over real sockets."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from serving import connection
from serving.connection import AHEAD, BODY_AHEAD, HEAD_BYTES, Connection, ConnectionLimits, Connections
from serving.incoming import HttpRequest
from serving.refusals import Answer, ClientLeft, refusal
from serving.request import TooLarge
from serving.tls import TlsFiles
from tests.certificates import Authority
from tests.waiting import came

GET = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
LARGE = b"x" * (8 << 20)


@dataclass
class Echo:
    """Answers with what was asked, the body with it; `/large` with more than a transport keeps, `/unread` without a
    look at the body, `/late` once it is `let_go`."""

    connections: Connections = field(init=False)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[HttpRequest] = field(default_factory=list)
    lines: list[Connection] = field(default_factory=list)
    left: int = 0
    taken: int = 0
    port: int = 0

    async def __call__(self, request: HttpRequest) -> None:
        self.seen.append(request)
        if request.path == "/late":
            await self.let_go.wait()
        try:
            body = b"" if request.path == "/unread" else await request.body(1 << 20)
        except (TooLarge, ClientLeft) as error:
            self.left += isinstance(error, ClientLeft)
            request.send(refusal(error))
            return
        if request.path == "/large":
            body = LARGE
        told = f"{request.method} {request.path} {request.query} {request.header('host')} ".encode()
        request.send(Answer(200, told + body, [("x-of", "echo")]))
        await request.taken()
        self.taken += 1


@asynccontextmanager
async def echo(
    header_seconds: float = 30.0, connections: int = 100, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Echo]:
    echo = Echo()
    echo.connections = Connections(echo, ConnectionLimits(header_seconds, connections))

    def opened() -> asyncio.Protocol:
        echo.lines.append(Connection(echo.connections))
        return echo.lines[-1]

    server = await asyncio.get_running_loop().create_server(opened, "127.0.0.1", 0, ssl=tls)
    echo.port = server.sockets[0].getsockname()[1]
    sweep = asyncio.create_task(echo.connections.sweep())
    yield echo
    sweep.cancel()
    server.close()
    await echo.connections.end(1)


async def told(port: int, sent: bytes, end: bool = True) -> bytes:
    """All that is answered, until the server closes the connection; the client's sending side is closed if it is to
    `end`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    writer.write(sent)
    if end:
        writer.write_eof()
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


def scene(play: Callable[[Echo], Awaitable[None]], header_seconds: float = 30.0, connections: int = 100) -> None:
    async def staged() -> None:
        async with echo(header_seconds, connections) as server:
            await play(server)

    asyncio.run(staged())


def bodies(answers: bytes) -> list[bytes]:
    """Of answers one after the other."""
    found = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        size = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        found.append(rest[:size])
        answers = rest[size:]
    return found


def test_requests_that_come_at_once_are_answered_in_their_order() -> None:
    async def play(server: Echo) -> None:
        paths = [b"/%d" % number for number in range(100)]
        sent = b"".join(b"POST %b?q=1 HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi" % path for path in paths)
        assert bodies(await told(server.port, sent)) == [b"POST %b q=1 a hi" % path for path in paths]

    scene(play)


@pytest.mark.parametrize("size", [1, 7])
def test_a_request_that_comes_in_pieces_is_the_same(size: int) -> None:
    async def play(server: Echo) -> None:
        sent = b"POST /a%20b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent += b"2\r\nhi\r\n3\r\nyou\r\n0\r\nx: y\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for start in range(0, len(sent), size):
            writer.write(sent[start : start + size])
            await asyncio.sleep(0)
        writer.write_eof()
        assert bodies(await reader.read()) == [b"POST /a b  a hiyou"]
        writer.close()

    scene(play)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (GET, True),
        (GET.replace(b"host: a", b"connection: close"), False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", True),
        (GET.replace(b"host: a", b"connection: upgrade\r\nupgrade: websocket"), True),
        (b"CONNECT here:80 HTTP/1.1\r\n\r\n", False),
        (b"POST /unread HTTP/1.1\r\ncontent-length: 5\r\n\r\nhe", False),
    ],
)
def test_a_connection_is_kept_as_the_client_asks(sent: bytes, kept: bool) -> None:
    async def play(server: Echo) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ") and b"\r\nx-of: echo\r\n" in head
        assert (b"connection: close" not in head) == kept
        if kept:
            assert (b"connection: keep-alive" in head) == (b"keep-alive" in sent)
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
            writer.write(GET)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        else:
            await reader.read()
        writer.close()

    scene(play)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nhi",
        b"POST / HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: +2\r\n\r\nhi",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nauthorization: b\r\nAuthorization: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nx : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: y\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\nhost: a\n\n",
        b"GET http:///x HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: " + b"0" * 5_000 + b"2\r\n\r\nhi",
        b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET /\r\n\r\n",
    ],
)
def test_what_two_readers_could_understand_in_two_ways_is_refused(sent: bytes) -> None:
    async def play(server: Echo) -> None:
        answer = await told(server.port, sent)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n") and b"connection: close" in answer, answer
        assert not server.seen

    scene(play)


def test_what_is_broken_behind_a_request_closes_the_connection_once_that_is_answered() -> None:
    async def play(server: Echo) -> None:
        asked = asyncio.create_task(told(server.port, GET.replace(b"/health", b"/late") + b"\x00\x01\r\n\r\n", False))
        await asyncio.sleep(0.05)
        server.let_go.set()
        assert bodies(await asked) == [b"GET /late  a "]

    scene(play)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: %b\r\n" % (n, b"y" * 3_000) for n in range(40)) + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * HEAD_BYTES + b"\r\n\r\n",
        b"GET /" + b"y" * HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_head_is_bounded(sent: bytes, whole: bool) -> None:
    async def play(server: Echo) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for start in range(0, len(sent), len(sent) if whole else 10_000):
            writer.write(sent[start : start + (len(sent) if whole else 10_000)])
            await asyncio.sleep(0.005)
        assert (await reader.readline()) == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
        assert not server.seen
        writer.close()

    scene(play)


def test_headers_behind_a_body_without_an_end_are_bounded_too() -> None:
    async def play(server: Echo) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ")
        for _ in range(20):
            writer.write(b"y" * 10_000)
            await asyncio.sleep(0.005)
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        assert server.left == 1
        writer.close()

    scene(play)


def test_who_waits_to_be_told_to_send_is_told() -> None:
    async def play(server: Echo) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        writer.write_eof()
        assert bodies(await reader.read()) == [b"POST /  a hi"]
        writer.close()

    scene(play)


def test_a_body_that_is_too_long_is_refused_before_it_has_come() -> None:
    async def play(server: Echo) -> None:
        told_length = b"POST / HTTP/1.1\r\ncontent-length: 2000000\r\n\r\n"
        untold = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + b"10000\r\n%b\r\n" % (b"y" * 65_536) * 17
        for sent in (told_length, untold):
            assert (await told(server.port, sent, False)).startswith(b"HTTP/1.1 413 ")

    scene(play)


def test_a_body_that_nobody_waits_for_stays_with_the_client() -> None:
    async def play(server: Echo) -> None:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.setblocking(False)
        sent = 0
        head = b"POST /late HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n"
        client.send(head)
        for _ in range(200):
            try:
                sent += client.send(b"y" * 1_000_000)
            except BlockingIOError:
                await asyncio.sleep(0.005)
        assert 0 < sent < 100_000_000  # the rest is the kernel's
        (request,) = server.seen
        assert BODY_AHEAD < request.ahead < BODY_AHEAD + (1 << 20)
        client.close()
        server.let_go.set()

    scene(play)


def test_a_client_that_leaves_before_its_body_has_come_is_told_of() -> None:
    async def play(server: Echo) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhe")
        await came(lambda: server.seen, "a request")
        writer.transport.abort()
        await came(lambda: server.left, "word that the client has left")

    scene(play)


def test_a_client_that_is_gone_as_its_answer_cuts_its_body_short() -> None:
    """Before the loop has heard of it; the client's system refuses the answer at once."""

    async def play(echo: Echo) -> None:
        client = socket.create_connection(("127.0.0.1", echo.port))
        client.sendall(b"POST /late HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n")
        await came(lambda: echo.seen, "a request")
        client.close()
        echo.seen[0].send(Answer(200, b"", []))
        echo.let_go.set()
        await came(lambda: not echo.connections._open, "the end of the connection")

    scene(play)


def test_a_client_that_does_not_take_its_answer_gets_no_second_one() -> None:
    async def play(server: Echo) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        writer.write(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n" * 10)
        await came(lambda: server.lines and server.lines[0]._taken, "an answer that is not taken")
        assert (len(server.seen), server.taken) == (1, 0)
        writer.write_eof()
        length = 0
        while part := await reader.read(1 << 20):
            length += len(part)
        assert length > 10 * len(LARGE)
        assert (len(server.seen), server.taken) == (10, 10)
        writer.close()

    scene(play)


def test_a_head_that_does_not_come_in_time_closes_the_connection() -> None:
    async def play(server: Echo) -> None:
        for sent in (b"", b"GET /health HT", GET + GET[:10]):
            answer = await told(server.port, sent, False)
            assert bodies(answer) == [b"GET /health  a "] * sent.count(b"\r\n\r\n")
        # What is worked on takes as long as it takes.
        asked = asyncio.create_task(told(server.port, GET.replace(b"/health", b"/late"), False))
        await asyncio.sleep(0.5)
        server.let_go.set()
        assert bodies(await asked) == [b"GET /late  a "]

    scene(play, header_seconds=0.2)


def test_a_connection_too_many_is_told_so() -> None:
    async def play(server: Echo) -> None:
        _, first = await asyncio.open_connection("127.0.0.1", server.port)
        await came(lambda: server.connections._open, "a connection")
        answer = await told(server.port, GET, False)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1\r\n" in answer
        first.close()
        await came(lambda: not server.connections._open, "the end of the connection")
        assert bodies(await told(server.port, GET)) == [b"GET /health  a "]

    scene(play, connections=1)


def test_the_host_of_a_whole_url_counts() -> None:
    async def play(server: Echo) -> None:
        sent = b"GET http://elsewhere:81/health?a=b HTTP/1.1\r\nhost: localhost\r\n\r\n"
        assert bodies(await told(server.port, sent)) == [b"GET /health a=b elsewhere:81 "]
        sent = sent.replace(b"elsewhere:81", b"[::1]:81")
        assert bodies(await told(server.port, sent)) == [b"GET /health a=b [::1]:81 "]
        assert bodies(await told(server.port, b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n")) == [b"OPTIONS *  a "]

    scene(play)


def test_head_is_answered_without_a_body() -> None:
    async def play(server: Echo) -> None:
        answer = await told(server.port, GET.replace(b"GET", b"HEAD"))
        assert answer.endswith(b"\r\n\r\n") and b"content-length: 16\r\n" in answer

    scene(play)


def test_what_has_begun_is_answered_at_the_end_and_the_rest_closed() -> None:
    async def play(server: Echo) -> None:
        idle, _ = await asyncio.open_connection("127.0.0.1", server.port)
        late = GET.replace(b"/health", b"/late")
        begun = asyncio.create_task(told(server.port, late + GET, False))
        half, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET[:-1])
        await came(lambda: server.seen and any(line._in_head for line in server.lines), "a request and half a one")
        ending = asyncio.create_task(server.connections.end(10))
        assert await idle.read() == b""
        assert not ending.done()
        writer.write(GET[-1:])
        assert bodies(await half.read()) == [b"GET /health  a "]
        server.let_go.set()
        answer = await begun
        assert bodies(answer) == [b"GET /late  a "] and b"connection: close" in answer
        async with asyncio.timeout(5):
            await ending

    scene(play)


def test_a_request_is_begun_once_though_the_client_takes_what_was_sent_meanwhile() -> None:
    """The interim answer to `Expect` can be what a client's system has no room for, and makes room for later."""

    async def play(server: Echo) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        (line,) = server.lines
        line.pause_writing()
        line.resume_writing()
        await asyncio.sleep(0.02)
        assert len(server.seen) == 1
        writer.write(b"hi" + GET)
        writer.write_eof()
        assert bodies(await reader.read()) == [b"POST /  a hi", b"GET /health  a "]
        writer.close()

    scene(play)


@pytest.mark.parametrize(
    "length", [b"content-length: 5\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
def test_the_offer_of_another_protocol_is_not_taken_up_and_the_body_is_read(length: bytes) -> None:
    """As Java's client makes it with every request."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"

    async def play(server: Echo) -> None:
        sent = b"POST /a?b=c HTTP/1.1\r\nhost: a\r\n" + offer + length
        assert bodies(await told(server.port, sent + sent + GET)) == [b"POST /a b=c a hello"] * 2 + [b"GET /health  a "]

    scene(play)


def test_an_interim_answer_is_for_http_1_1() -> None:
    async def play(server: Echo) -> None:
        answer = await told(
            server.port, b"POST / HTTP/1.0\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi"
        )
        assert bodies(answer) == [b"POST /  a hi"]

    scene(play)


def test_requests_are_parsed_no_further_than_they_are_waited_for() -> None:
    async def play(server: Echo) -> None:
        late = GET.replace(b"/health", b"/late")
        asked = asyncio.create_task(told(server.port, late * 5_000))
        await asyncio.sleep(0.3)
        (line,) = server.lines
        assert AHEAD < len(line._requests) < AHEAD + 2 * connection.SLICE_BYTES // len(late)
        server.let_go.set()
        assert bodies(await asked) == [b"GET /late  a "] * 5_000

    scene(play)


def test_a_connection_that_is_kept_is_told_with_its_last_answer() -> None:
    """Closed as the end begins, it would have no answer to a request that is on its way just then."""

    async def play(server: Echo) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET)
        answer = await reader.readuntil(b" a ")
        assert b"connection: close" not in answer
        ending = asyncio.create_task(server.connections.end(10))
        await asyncio.sleep(0.1)
        writer.write(GET)
        last = await reader.read()
        assert bodies(last) == [b"GET /health  a "] and b"connection: close" in last
        async with asyncio.timeout(5):
            await ending

    scene(play)


def test_who_sends_more_than_is_read_has_the_answer_all_the_same() -> None:
    """Closed with bytes unread, a connection is reset, and its answers are thrown away."""

    async def play(server: Echo) -> None:
        late = GET.replace(b"/health", b"/late")
        asked = asyncio.create_task(told(server.port, late * 20_000, False))
        await asyncio.sleep(0.3)
        ending = asyncio.create_task(server.connections.end(10))
        await asyncio.sleep(0.05)
        server.let_go.set()
        assert bodies(await asked) == [b"GET /late  a "]
        async with asyncio.timeout(5):
            await ending

    scene(play)


def test_connections_beyond_all_places_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are more told so at a time than there is room for; they are closed without a word."""
    monkeypatch.setattr(connection, "TURNED_AWAY", 5)

    async def play(server: Echo) -> None:
        held = await asyncio.open_connection("127.0.0.1", server.port)
        others = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
        found = []
        for reader, writer in others:
            try:
                found.append(await reader.read(12))
            except ConnectionResetError:
                found.append(b"")
            assert not writer.is_closing()  # they keep their side open
        assert found.count(b"HTTP/1.1 503") == 5 and found.count(b"") == 15
        async with asyncio.timeout(5):
            while server.connections._turned_away:
                await asyncio.sleep(0.02)
        held[1].close()

    scene(play, header_seconds=0.5, connections=1)


def test_a_client_by_tls_that_does_not_close_its_side_holds_nobody_up(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    authority.sign("server", files.cert, files.key)

    def connected(port: int) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port), 10)
        return ssl.create_default_context(cafile=authority.certificate).wrap_socket(plain, server_hostname="localhost")

    async def staged() -> None:
        async with echo(0.5, tls=files.context()) as server:
            client = await asyncio.to_thread(connected, server.port)
            async with asyncio.timeout(5):
                while not server.lines or server.connections._open:
                    await asyncio.sleep(0.02)
            other = await asyncio.to_thread(connected, server.port)
            async with asyncio.timeout(5):
                await server.connections.end(30)
            client.close()
            other.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(staged())
