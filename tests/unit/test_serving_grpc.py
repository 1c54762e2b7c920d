"""Requests by gRPC: what is read, counted and noted of one that is refused, or that its client gives up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest
from feast.protos.feast.types.Value_pb2 import Value

from millrace.stack.ports import choose_ports
from serving.access import OpenAccess, Unauthorized
from serving.aside import Aside
from serving.audit import NoAudit, Request
from serving.compile import Compiled
from serving.counts import GRPC_ROUTE, Counts
from serving.features import Write
from serving.gate import Gate
from serving.grpc_server import GrpcListening, GrpcServer
from serving.http import GetOnlineFeatures, HttpLimits
from serving.request import FeaturesRequest, RequestLimits
from serving.scales import Scales
from tests.tcp_proxy import TcpProxy

METHOD = "/feast.serving.ServingService/GetOnlineFeatures"
KEY = [("authorization", "Bearer mr_known")]
WHOLE = [("grpc.max_receive_message_length", -1)]


class Noted(NoAudit):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def note(self, request: Request) -> None:
        self.requests.append(request)


class Store:
    """Answers with so many bytes, and as long as it has none never; `entities` are how many each request is for that it
    was asked."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.entities: list[int] = []
        self.bytes = 0

    def look(self, request: FeaturesRequest, compiled: Compiled) -> None:
        """There is room."""

    def prepared(self, request: FeaturesRequest, compiled: Compiled) -> Any:
        return request

    async def answer(self, request: FeaturesRequest, write: Write) -> Any:
        self.asked.set()
        self.entities.append(request.count)
        if not self.bytes:
            await asyncio.Event().wait()
        return b"a" * self.bytes


class OneKey(OpenAccess):
    """Knows one key, and keeps what it was charged."""

    def __init__(self) -> None:
        super().__init__()
        self.charged: list[int] = []
        self.unknown = ""
        """What is said of another one, besides."""

    def identify(self, key: str | None) -> str:
        if key != "mr_known":
            raise Unauthorized(f"no key: {self.unknown}" if self.unknown else "the key is not known")
        return "id"

    def name(self, key_id: str) -> str:
        return "model"

    def charge(self, key_id: str, entities: int) -> None:
        self.charged.append(entities)


class Served:
    """A server on a port of its own, what it counts and notes, and what its one key was charged. It holds two large
    messages of 400 bytes or more, and lets one wait; and 100 MB of answers that have 100 kB or more."""

    def __init__(self, connections: int = 100, reading: int = 10) -> None:
        self.counts, self.audit, self.access, self.store = Counts(1), Noted(), OneKey(), Store()
        compiled = SimpleNamespace(views=["weather"], personal=(), references=("weather:temp",), width=1)
        snapshot = SimpleNamespace(config=SimpleNamespace(project="nyc"), known=lambda asked: compiled)
        registry: Any = SimpleNamespace(current=snapshot)
        store: Any = self.store
        features = GetOnlineFeatures(registry, store, self.access, RequestLimits(), Aside("versions", 1, 1))
        listening = GrpcListening("127.0.0.1", choose_ports(("grpc",), {})["grpc"], connections, 5.0, 0.0)
        limits = HttpLimits(body_bytes=1_000, request_seconds=0.5)
        self.address = listening.address
        bodies = Scales("large bodies", 2_000, 10, 1)
        reads, answers = Gate(reading, 1, "messages"), Scales("large answers", 100_000_000, 1_000, 0)
        self.server = GrpcServer(
            listening, features, Gate(10, 0), reads, bodies, answers, limits, self.counts.claim(), self.audit
        )

    @property
    def statuses(self) -> dict[int, int]:
        routes = [route for route in self.counts.routes() if route.route == GRPC_ROUTE]
        return {status: count for route in routes for status, count in route.statuses if count}

    async def noted(self, requests: int) -> None:
        """Returns once so many are: a client has its answer a moment before."""
        async with asyncio.timeout(5):
            while len(self.audit.requests) < requests:
                await asyncio.sleep(0.001)


def serve(scene: Callable[[Served, Any], Awaitable[None]], **options: int) -> None:
    async def run() -> None:
        served = Served(**options)
        await served.server.start()
        try:
            async with grpc.aio.insecure_channel(served.address, WHOLE) as channel:
                await scene(served, channel)
        finally:
            await served.server.close()

    asyncio.run(run())


async def refusal(call: Any) -> tuple[str, str]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    raise AssertionError("it was answered")


async def never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


def test_who_has_no_key_is_refused_before_a_message_is_read() -> None:
    async def scene(served: Served, channel: Any) -> None:
        async with asyncio.timeout(5):
            code, _ = await refusal(channel.stream_unary(METHOD)(never()))
        assert code == "UNAUTHENTICATED"
        assert await refusal(channel.unary_unary(METHOD)(b"\xff" * 2_000)) == (code, "the key is not known")
        await served.noted(2)
        assert served.statuses == {401: 2}
        assert [request.status for request in served.audit.requests] == [code, code]

    serve(scene)


def test_of_two_keys_none_is_taken() -> None:
    """Whoever stands before the server may have looked at the other one."""

    async def scene(served: Served, channel: Any) -> None:
        served.store.bytes = 10
        for metadata in ([*KEY, *KEY], [("authorization", "Bearer mr_other"), *KEY]):
            code, said = await refusal(channel.unary_unary(METHOD)(b"", metadata=metadata))
            assert (code, said) == ("UNAUTHENTICATED", "the call has authorization 2 times: give one key")
        await served.noted(2)
        assert (served.statuses, served.access.charged) == ({401: 2}, [])

    serve(scene)


@pytest.mark.parametrize("name", ["weather" * 5_000, "%" * 20_000, "天気" * 5_000])
def test_a_refusal_that_names_much_comes_with_its_code(name: str) -> None:
    """What a client takes of metadata ends at 8 KiB, of which the words are percent-encoded."""

    async def scene(served: Served, channel: Any) -> None:
        served.access.unknown = name
        code, said = await refusal(channel.unary_unary(METHOD)(b""))
        assert code == "UNAUTHENTICATED"
        assert said.endswith("…") and f"no key: {name}".startswith(said[:-1]) and len(said) > 100

    serve(scene)


def test_a_message_is_waited_for_as_long_as_a_body() -> None:
    async def scene(served: Served, channel: Any) -> None:
        code, _ = await refusal(channel.stream_unary(METHOD)(never(), metadata=KEY))
        await served.noted(1)
        assert (code, served.statuses, served.access.charged) == ("UNAVAILABLE", {503: 1}, [])

    serve(scene)


@pytest.mark.parametrize("body", [b"\xff\xff", b"", b"\x0a\x02\xff\xfe"])
def test_a_malformed_message_is_a_request_that_is_refused(body: bytes) -> None:
    async def scene(served: Served, channel: Any) -> None:
        code, said = await refusal(channel.unary_unary(METHOD)(body, metadata=KEY))
        assert code == "INVALID_ARGUMENT"
        assert "no entity" in said if not body else "no GetOnlineFeaturesRequest" in said
        await served.noted(1)
        assert (served.statuses, served.access.charged) == ({422: 1}, [0])
        assert served.audit.requests == [Request("model", None, (), 0, "INVALID_ARGUMENT", "grpc")]

    serve(scene)


def test_a_message_above_the_limit_is_not_read() -> None:
    async def scene(served: Served, channel: Any) -> None:
        code, said = await refusal(channel.unary_unary(METHOD)(b"\x0a" * 2_000, metadata=KEY))
        assert code == "RESOURCE_EXHAUSTED" and "larger than max" in said
        assert served.access.charged == [0]

    serve(scene)


def test_calls_and_connections_are_bounded() -> None:
    async def scene(served: Served, channel: Any) -> None:
        calls = [refusal(channel.stream_unary(METHOD)(never(), metadata=KEY)) for _ in range(5)]
        said = [text for code, text in await asyncio.gather(*calls) if code == "UNAVAILABLE"]
        assert len(said) == 5 and sum("as many calls as it can take" in text for text in said) == 2
        await served.noted(5)
        assert served.statuses == {503: 5}
        host, port = served.address.split(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(6)]
        greeted = [await greeting(reader) for reader, _ in opened]
        assert greeted.count(True) <= 3 and greeted.count(False) >= 3
        for _, writer in opened:
            writer.close()

    serve(scene, connections=3)


def asking_for(entities: int) -> bytes:
    """A message of some ten bytes an entity."""
    request = GetOnlineFeaturesRequest()
    request.features.val.append("weather:temp")
    request.entities["origin"].val.extend(Value(string_val="EWREWR") for _ in range(entities))
    return request.SerializeToString()


def test_large_messages_are_bounded_and_small_ones_pass() -> None:
    async def scene(served: Served, channel: Any) -> None:
        ask = channel.unary_unary(METHOD)
        large = [refusal(ask(asking_for(80), metadata=KEY)) for _ in range(4)]
        answers = [asyncio.create_task(one) for one in large]
        await served.noted(1)  # the one that was turned away at once
        assert served.store.entities == [80, 80]
        small = asyncio.create_task(refusal(ask(asking_for(1), metadata=KEY)))
        async with asyncio.timeout(5):
            while len(served.store.entities) < 3:
                await asyncio.sleep(0.001)
        assert served.store.entities == [80, 80, 1]
        said = [text for _, text in await asyncio.gather(*answers, small)]
        assert sum("as many large bodies" in text for text in said) == 1
        await served.noted(5)
        assert served.statuses == {503: 5}

    serve(scene)


def test_what_a_large_message_weighed_is_given_back() -> None:
    async def scene(served: Served, channel: Any) -> None:
        for _ in range(4):
            call = channel.unary_unary(METHOD)(asking_for(80), metadata=KEY)
            served.store.asked.clear()
            await served.store.asked.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        await served.noted(4)
        assert served.statuses == {499: 4}

    serve(scene)


def test_so_many_messages_are_read_at_once() -> None:
    async def scene(served: Served, channel: Any) -> None:
        calls = [refusal(channel.stream_unary(METHOD)(never(), metadata=KEY)) for _ in range(5)]
        said = [text for _, text in await asyncio.gather(*calls)]
        assert sum("as many messages as it can take" in text for text in said) == 2
        await served.noted(5)
        assert served.statuses == {503: 5}

    serve(scene, reading=2)


def test_answers_that_are_not_taken_are_held_up_to_a_bound() -> None:
    async def scene(served: Served, channel: Any) -> None:
        served.store.bytes = 40_000_000
        proxy = TcpProxy(int(served.address.rpartition(":")[2])).start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}", WHOLE) as stalled:
            slow, quick = stalled.unary_unary(METHOD), channel.unary_unary(METHOD)
            assert len(await slow(asking_for(1), metadata=KEY)) == 40_000_000
            proxy.silent = True
            held = [asyncio.ensure_future(slow(asking_for(1), metadata=KEY)) for _ in range(2)]
            await served.noted(3)
            code, said = await refusal(quick(asking_for(1), metadata=KEY))
            assert code == "UNAVAILABLE" and "as many large answers as it can take" in said
            served.store.bytes = 90_000
            assert len(await quick(asking_for(1), metadata=KEY)) == 90_000
            proxy.silent = False
            assert [len(answer) for answer in await asyncio.gather(*held)] == [40_000_000] * 2
            served.store.bytes = 90_000_000
            assert len(await quick(asking_for(1), metadata=KEY)) == 90_000_000
        await asyncio.to_thread(proxy.stop)

    serve(scene)


async def greeting(reader: asyncio.StreamReader) -> bool:
    """Whether the server speaks to whoever has connected, and does not hang up."""
    with suppress(ConnectionError):
        return bool(await reader.read(1))
    return False


def test_a_request_that_its_client_gives_up_is_not_counted_as_answered() -> None:
    """grpc ends the coroutine by a cancellation, at the client's deadline too."""
    request = GetOnlineFeaturesRequest()
    request.features.val.append("weather:temp")
    request.entities["origin"].val.append(Value(string_val="EWR"))

    async def scene(served: Served, channel: Any) -> None:
        call = channel.unary_unary(METHOD)(request.SerializeToString(), metadata=KEY)
        await served.store.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(5):
            while not served.audit.requests:
                await asyncio.sleep(0.01)
        assert served.statuses == {499: 1}
        assert served.audit.requests == [Request("model", None, ["weather"], 1, "CANCELLED", "grpc")]

    serve(scene)
