"""Feast's `ServingService` over gRPC, beside HTTP in the same processes and by the same steps. The one door to grpc."""

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import perf_counter
from typing import Any

import feast
import grpc
import orjson
from feast.protos.feast.serving.ServingService_pb2 import (
    GetFeastServingInfoRequest,
    GetFeastServingInfoResponse,
    GetOnlineFeaturesRequest,
)

from serving.access import AccessRefused, Forbidden, TooMany, bearer
from serving.audit import Audit, Request
from serving.counts import GRPC_ROUTE, ProcessCounts
from serving.features import Found
from serving.gate import Gate
from serving.http import GetOnlineFeatures, HttpLimits, Seen, charge_refused
from serving.messages import request_fields, response
from serving.plan import InvalidRequest
from serving.refusals import refusal
from serving.request import FeaturesRequest, checked
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

LEFT = 499
"""A client that went away, or whose deadline passed. HTTP has no such status: proxies log it by this number."""


@dataclass(frozen=True, slots=True)
class GrpcListening:
    """Where gRPC listens. The processes of a server share the port, which therefore cannot be 0."""

    host: str
    port: int
    drain_seconds: float
    tls: TlsFiles | None = None

    @property
    def address(self) -> str:
        """As grpc wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class GrpcServer:
    """Serves within one event loop, from `start` to `close`."""

    def __init__(
        self,
        listening: GrpcListening,
        features: GetOnlineFeatures,
        gate: Gate,
        limits: HttpLimits,
        counts: ProcessCounts,
        audit: Audit,
    ) -> None:
        self._listening = listening
        self._features = features
        self._gate = gate
        self._limits = limits
        self._counts = counts
        self._audit = audit
        self._server: Any = None

    async def start(self) -> None:
        """Listen. Raises `RuntimeError` if the port is taken, `OSError` if a TLS file cannot be read."""
        options = [("grpc.max_receive_message_length", self._limits.body_bytes), ("grpc.so_reuseport", 1)]
        self._server = grpc.aio.server(options=options)
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
        get_online_features = grpc.unary_unary_rpc_method_handler(
            self._get_online_features, request_deserializer=GetOnlineFeaturesRequest.FromString
        )
        info = grpc.unary_unary_rpc_method_handler(
            _info,
            request_deserializer=GetFeastServingInfoRequest.FromString,
            response_serializer=GetFeastServingInfoResponse.SerializeToString,
        )
        methods = {"GetOnlineFeatures": get_online_features, "GetFeastServingInfo": info}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _get_online_features(self, message: GetOnlineFeaturesRequest, context: Any) -> bytes:
        start, seen, status = perf_counter(), Seen(), LEFT
        try:
            answer = await self._answer(message, context, seen)
            status = 200
            return answer
        except Exception as error:  # the last line: no request ends without an answer
            refused = refusal(error)
            status = refused.status
            if isinstance(error, AccessRefused):
                seen.caller = error.caller or seen.caller
            trailing = (("retry-after", str(ceil(error.retry_after))),) if isinstance(error, TooMany) else ()
            await context.abort(CODES[status], orjson.loads(refused.body)["detail"], trailing)
            raise AssertionError("abort raises") from error
        finally:
            self._counts.count(GRPC_ROUTE, status, perf_counter() - start, seen.entities)
            code = CODES[status].name if status in CODES else "OK"
            self._audit.note(Request(seen.caller, seen.service, seen.views, seen.entities, code, "grpc"))

    async def _answer(self, message: GetOnlineFeaturesRequest, context: Any, seen: Seen) -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        access = self._features.access
        key_id = access.identify(bearer(metadata.get("authorization")))
        seen.caller = access.name(key_id)
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                await self._gate.enter()
                try:
                    request = checked(request_fields(message), self._features.limits)
                    compiled = self._features.admitted(key_id, request, seen)
                    return await self._features.features.answer(request, compiled, partial(_body, message))
                finally:
                    self._gate.leave()
        except (InvalidRequest, Forbidden):
            charge_refused(access, key_id, seen)
            raise


def _body(message: GetOnlineFeaturesRequest, request: FeaturesRequest, found: Found) -> bytes:
    return response(message, found, request.versions)


async def _info(message: GetFeastServingInfoRequest, context: Any) -> GetFeastServingInfoResponse:
    """Which Feast the server speaks for; as `/health` it needs no key."""
    return GetFeastServingInfoResponse(version=feast.__version__)


def _credentials(files: TlsFiles) -> Any:
    """Read as the process starts; a change of the files starts new processes (`serving.tls`)."""
    clients = files.client_ca.read_bytes() if files.client_ca is not None else None
    pair = (files.key.read_bytes(), files.cert.read_bytes())
    return grpc.ssl_server_credentials([pair], root_certificates=clients, require_client_auth=clients is not None)
