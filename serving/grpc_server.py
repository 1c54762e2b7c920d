"""Feast's `ServingService` over gRPC, beside HTTP in the same processes and by the same steps. The one door to grpc."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import perf_counter
from typing import Any

import feast
import grpc
import orjson
from feast.protos.feast.serving.ServingService_pb2 import (
    GetFeastServingInfoResponse,
    GetOnlineFeaturesRequest,
)

from serving.access import AccessRefused, Forbidden, TooMany, Unauthorized, bearer
from serving.audit import Audit, Request
from serving.counts import GRPC_ROUTE, ProcessCounts
from serving.features import Found
from serving.gate import Gate, Overloaded
from serving.http import GetOnlineFeatures, HttpLimits, Seen, charge_refused
from serving.messages import parsed, request_fields, response
from serving.plan import InvalidRequest
from serving.refusals import refusal
from serving.request import FeaturesRequest, checked
from serving.scales import Scales
from serving.tls import TlsFiles

log = logging.getLogger("millrace")

SERVICE = "feast.serving.ServingService"

CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""By the HTTP status of the same refusal."""

DETAIL_BYTES = 2_000
"""Of the words of a refusal: a client takes 8 KiB of metadata in all."""

IDLE_SECONDS, AGE_SECONDS = 300, 1_800
"""How long a connection may be without a call, and how long it lives: its client makes another one, which may reach
another process. What has begun is answered first."""

LEFT = 499
"""A client that went away, or whose deadline passed. HTTP has no such status: proxies log it by this number."""


@dataclass(frozen=True, slots=True)
class GrpcListening:
    """Where gRPC listens, with so many `connections` at the most, and as many calls; a connection has `header_seconds`
    to begin. The processes of a server share the port, which therefore cannot be 0."""

    host: str
    port: int
    connections: int
    header_seconds: float
    drain_seconds: float
    tls: TlsFiles | None = None

    @property
    def address(self) -> str:
        """As grpc wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class GrpcServer:
    """Serves within one event loop, from `start` to `close`. `reading` has a place for each message that is read at
    once, whose length nobody knows before; `bodies` weighs it then, beside those of HTTP, and so do `answers` what its
    client has not taken yet."""

    def __init__(
        self,
        listening: GrpcListening,
        features: GetOnlineFeatures,
        gate: Gate,
        reading: Gate,
        bodies: Scales,
        answers: Scales,
        limits: HttpLimits,
        counts: ProcessCounts,
        audit: Audit,
    ) -> None:
        self._listening = listening
        self._features = features
        self._gate = gate
        self._reading = reading
        self._bodies = bodies
        self._answers = answers
        self._limits = limits
        self._counts = counts
        self._audit = audit
        self._server: Any = None
        self._calls = 0

    async def start(self) -> None:
        """Listen. Raises `RuntimeError` if the port is taken, `OSError` if a TLS file cannot be read."""
        options = _options(self._listening, self._limits)
        # grpc's own bound is twice what is taken: what it refuses can be neither counted nor noted here.
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=2 * self._listening.connections)
        self._server.add_generic_rpc_handlers((self._handlers(),))
        if self._listening.tls is None:
            self._server.add_insecure_port(self._listening.address)
        else:
            self._server.add_secure_port(self._listening.address, _credentials(self._listening.tls))
        await self._server.start()

    async def close(self) -> None:
        """Take no more requests, and answer those that have begun."""
        await self._server.stop(self._listening.drain_seconds)

    def _handlers(self) -> Any:
        """As streams of one message, which is the same to clients: of them nothing is read before it is asked for."""
        get_online_features = grpc.stream_unary_rpc_method_handler(self._get_online_features)
        info = grpc.stream_unary_rpc_method_handler(
            _info, response_serializer=GetFeastServingInfoResponse.SerializeToString
        )
        methods = {"GetOnlineFeatures": get_online_features, "GetFeastServingInfo": info}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _get_online_features(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        start, seen, status = perf_counter(), Seen(), LEFT
        self._calls += 1
        try:
            answer = await self._answer(messages, context, seen)
            await self._hold(len(answer), context)
            status = 200
            return answer
        except Exception as error:  # the last line: no request ends without an answer
            refused = refusal(error)
            status = refused.status
            if isinstance(error, AccessRefused):
                seen.caller = error.caller or seen.caller
            trailing = (("retry-after", str(ceil(error.retry_after))),) if isinstance(error, TooMany) else ()
            await context.abort(CODES[status], _short(orjson.loads(refused.body)["detail"]), trailing)
            raise AssertionError("abort raises") from error
        finally:
            self._calls -= 1
            self._counts.count(GRPC_ROUTE, status, perf_counter() - start, seen.entities)
            code = CODES[status].name if status in CODES else "OK"
            self._audit.note(Request(seen.caller, seen.service, seen.views, seen.entities, code, "grpc"))

    async def _answer(self, messages: AsyncIterator[bytes], context: Any, seen: Seen) -> bytes:
        """The key first, as over HTTP: of who has none no message is read. But before it, whether there is room."""
        if self._calls > self._listening.connections:
            raise Overloaded("calls")
        access = self._features.access
        key_id = access.identify(bearer(_authorization(context.invocation_metadata() or ())))
        seen.caller = access.name(key_id)
        self._gate.look()
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                body, weight = await self._weighed(messages)
                try:
                    return await self._answered(body, key_id, seen)
                finally:
                    if weight:
                        self._bodies.leave(weight)
        except (InvalidRequest, Forbidden):
            charge_refused(access, key_id, seen)
            raise

    async def _answered(self, body: bytes, key_id: str, seen: Seen) -> bytes:
        await self._gate.enter()
        try:
            message = parsed(body)
            request = checked(request_fields(message), self._features.limits)
            prepared = await self._features.admitted(key_id, request, seen)
            return await self._features.features.answer(prepared, partial(_body, message))
        finally:
            self._gate.leave()

    async def _hold(self, size: int, context: Any) -> None:
        """Take the room of an answer until its call has ended: its client has taken it by then, but for 64 KiB, or is
        gone. Raises `Overloaded`."""
        if weight := self._answers.weight(size):
            await self._answers.enter(weight)
            context.add_done_callback(lambda _: self._answers.leave(weight))

    async def _weighed(self, messages: AsyncIterator[bytes]) -> tuple[bytes, int]:
        """A message, and the weight that it has entered with: a large one keeps its place of those that are read until
        there is room for it."""
        await self._reading.enter()
        try:
            body = await self._message(messages)
            weight = self._bodies.weight(len(body))
            if weight:
                await self._bodies.enter(weight)
            return body, weight
        finally:
            self._reading.leave()

    async def _message(self, messages: AsyncIterator[bytes]) -> bytes:
        body = await anext(messages, None)
        if body is None:
            raise InvalidRequest(f"no message came, or one of more than {self._limits.body_bytes} bytes")
        return body


def _authorization(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The one that a call has, None of one without. Raises `Unauthorized` for several, as HTTP refuses the header that
    comes twice: who stands before this server may have looked at another one than it would."""
    given = [str(value) for name, value in metadata if name == "authorization"]
    if len(given) > 1:
        raise Unauthorized(f"the call has authorization {len(given)} times: give one key")
    return given[0] if given else None


def _options(listening: GrpcListening, limits: HttpLimits) -> list[tuple[str, int]]:
    """grpc's own bounds, for what comes before a key is looked at."""
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", limits.body_bytes),
        # Else it makes room for whole messages while nobody reads them; so it takes 64 KiB of each.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_allowed_incoming_connections", listening.connections),
        ("grpc.server_handshake_timeout_ms", ceil(listening.header_seconds * 1_000)),
        ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1_000),
        ("grpc.max_connection_age_ms", AGE_SECONDS * 1_000),
        ("grpc.max_connection_age_grace_ms", ceil(listening.drain_seconds * 1_000)),
    ]


def _body(message: GetOnlineFeaturesRequest, request: FeaturesRequest, found: Found) -> bytes:
    return response(message, found, request.versions)


async def _info(messages: AsyncIterator[bytes], context: Any) -> GetFeastServingInfoResponse:
    """Which Feast the server speaks for; as `/health` it needs no key. The request is empty, and is not read."""
    return GetFeastServingInfoResponse(version=feast.__version__)


def _credentials(files: TlsFiles) -> Any:
    """Read as the process starts; a change of the files starts new processes (`serving.tls`)."""
    clients = files.client_ca.read_bytes() if files.client_ca is not None else None
    pair = (files.key.read_bytes(), files.cert.read_bytes())
    return grpc.ssl_server_credentials([pair], root_certificates=clients, require_client_auth=clients is not None)


def _short(detail: str) -> str:
    """So much of the words of a refusal as fits: what exceeds a client's bound makes it RESOURCE_EXHAUSTED there. They
    are percent-encoded on the way (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)."""
    size = 0
    for number, letter in enumerate(detail):
        size += 1 if " " <= letter <= "~" and letter != "%" else 3 * len(letter.encode())
        if size > DETAIL_BYTES:
            return detail[:number] + "\N{HORIZONTAL ELLIPSIS}"
    return detail
