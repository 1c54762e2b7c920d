"""What is sent back over HTTP; of an error its status, and what it means to whoever asked."""

import logging
from dataclasses import dataclass
from math import ceil

import orjson

from serving.access import AccessRefused, TooMany, Unauthorized
from serving.gate import Overloaded
from serving.places import kind, places
from serving.plan import InvalidRequest, NotDeclared
from serving.request import TooLarge
from stores.errors import NotSetUp, StoreRefused, StoreUnavailable

log = logging.getLogger("millrace")

Headers = list[tuple[str, str]]

JSON: Headers = [("content-type", "application/json")]
RETRY: Headers = [*JSON, ("retry-after", "1")]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    headers: Headers


class ClientLeft(Exception):
    """A client that was gone before its request had come whole."""


def refused(status: int, error: str, detail: str, headers: Headers = JSON) -> Answer:
    """An answer that says what is wrong: `error` for programs, `detail` for people."""
    return Answer(status, orjson.dumps({"error": error, "detail": detail}), headers)


def refusal(error: Exception) -> Answer:
    """What an error means to whoever asked."""
    if isinstance(error, AccessRefused):
        return _kept_out(error)
    if isinstance(error, NotDeclared):
        return refused(404, "not_declared", str(error))
    if isinstance(error, TooLarge):
        return refused(413, "too_large", str(error))
    if isinstance(error, InvalidRequest):
        return refused(422, "invalid_request", str(error))
    if isinstance(error, Overloaded):
        return refused(503, "overloaded", str(error), RETRY)
    if isinstance(error, StoreUnavailable):
        return refused(503, "store_unavailable", f"{error.store} is unavailable; try again", RETRY)
    if isinstance(error, TimeoutError):
        return refused(503, "timed_out", "the request took longer than the server allows", RETRY)
    if isinstance(error, ClientLeft):
        return refused(400, "client_left", "the request did not come whole")
    if isinstance(error, NotSetUp):
        log.warning("%s", error, extra={"event": "not_set_up"})
        return refused(503, "not_set_up", "a view has no place in its store yet, or is being taken away", RETRY)
    if isinstance(error, StoreRefused):
        log.error("%s", error, extra={"event": "store_refused"})
        return refused(500, "store_refused", "a store holds what cannot be served; the server's log says what")
    # Where it failed, and not the error's words: they may hold values.
    log.error("a request failed", extra={"event": "request_failed", "error": kind(error), "at": places(error)})
    return refused(500, "internal", "the server's log says what happened")


def _kept_out(error: AccessRefused) -> Answer:
    if isinstance(error, TooMany):
        return refused(429, "too_many", str(error), [*JSON, ("retry-after", str(ceil(error.retry_after)))])
    if isinstance(error, Unauthorized):
        return refused(401, "unauthorized", str(error), [*JSON, ("www-authenticate", "Bearer")])
    return refused(403, "forbidden", str(error))
