"""Requests by gRPC without a server: what is counted and noted of one that is refused, or that its client gives up."""

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest
from feast.protos.feast.types.Value_pb2 import Value

from serving.access import OpenAccess
from serving.audit import NoAudit, Request
from serving.compile import Compiled
from serving.counts import GRPC_ROUTE, Counts
from serving.features import Write
from serving.gate import Gate
from serving.grpc_server import GrpcListening, GrpcServer
from serving.http import GetOnlineFeatures, HttpLimits
from serving.request import FeaturesRequest, RequestLimits


class Noted(NoAudit):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def note(self, request: Request) -> None:
        self.requests.append(request)


class Store:
    """Never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def look(self, request: FeaturesRequest, compiled: Compiled) -> None:
        """There is room."""

    async def answer(self, request: FeaturesRequest, compiled: Compiled, write: Write) -> Any:
        self.asked.set()
        await asyncio.Event().wait()


class OneKey(OpenAccess):
    """Keeps what it was charged."""

    def __init__(self) -> None:
        super().__init__()
        self.charged: list[int] = []

    def name(self, key_id: str) -> str:
        return "model"

    def charge(self, key_id: str, entities: int) -> None:
        self.charged.append(entities)


class Aborted(Exception):
    """As grpc's own."""


def test_a_refused_request_has_its_keys_name_and_costs_one() -> None:
    access, audit = OneKey(), Noted()

    async def abort(code: grpc.StatusCode, details: str, trailing: object) -> None:
        raise Aborted(code.name)

    async def ask() -> None:
        nothing: Any = SimpleNamespace()
        features = GetOnlineFeatures(nothing, nothing, access, RequestLimits())
        listening = GrpcListening("127.0.0.1", 0, 0.0)
        server = GrpcServer(listening, features, Gate(1, 0), HttpLimits(), Counts(1).claim(), audit)
        context: Any = SimpleNamespace(invocation_metadata=lambda: (), abort=abort)
        with pytest.raises(Aborted, match="INVALID_ARGUMENT"):
            await server._get_online_features(GetOnlineFeaturesRequest(), context)

    asyncio.run(ask())
    assert access.charged == [0]
    assert audit.requests == [Request("model", None, (), 0, "INVALID_ARGUMENT", "grpc")]


def test_a_request_that_its_client_gives_up_is_not_counted_as_answered() -> None:
    """grpc ends the coroutine by a cancellation, at the client's deadline too."""
    counts, audit = Counts(1), Noted()
    compiled = SimpleNamespace(views=["weather"], personal=(), references=("weather:temp",), width=1)
    snapshot = SimpleNamespace(config=SimpleNamespace(project="nyc"), plan=lambda asked: compiled)
    registry: Any = SimpleNamespace(current=snapshot)
    request = GetOnlineFeaturesRequest()
    request.features.val.append("weather:temp")
    request.entities["origin"].val.append(Value(string_val="EWR"))
    context: Any = SimpleNamespace(invocation_metadata=lambda: ())

    async def ask() -> None:
        store: Any = Store()
        features = GetOnlineFeatures(registry, store, OpenAccess(), RequestLimits())
        listening = GrpcListening("127.0.0.1", 0, 0.0)
        server = GrpcServer(listening, features, Gate(1, 0), HttpLimits(), counts.claim(), audit)
        asked = asyncio.create_task(server._get_online_features(request, context))
        await store.asked.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(ask())
    (route,) = [route for route in counts.routes() if route.route == GRPC_ROUTE]
    assert {status: count for status, count in route.statuses if count} == {499: 1}
    assert audit.requests == [Request("anonymous", None, ["weather"], 1, "CANCELLED", "grpc")]
