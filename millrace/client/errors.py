"""What can go wrong between a model service and the server, each with the server's own words."""

import json
from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Base of all errors of the client; `status` is the HTTP status, None if no response came."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class Unreachable(ClientError):
    """No connection, or it broke before the response."""


class TimedOut(ClientError):
    """No response within the client's time-out."""


class InvalidRequest(ClientError):
    """400, 404, 413, 422: the request names what does not exist, or has another form."""


class Unauthorized(ClientError):
    """401: no key, or one that is not known."""


class Forbidden(ClientError):
    """403: the key does not reach so far; the text names the service or the feature."""


class TooManyRequests(ClientError):
    """429: the key's limit is reached; `retry_after` is in seconds."""

    def __init__(self, text: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(text, status)
        self.retry_after = retry_after


class Unavailable(ClientError):
    """503: the server's store is away, or it has too much to do; `retry_after` is in seconds, None if not told."""

    def __init__(self, text: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(text, status)
        self.retry_after = retry_after


class ServerFailed(ClientError):
    """Any other status: the fault is the server's."""


class InvalidAnswer(ClientError):
    """A response that is not of Feast's form: there is another server at this address, or it broke off."""


_BY_STATUS: Mapping[int, type[ClientError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: InvalidRequest,
    413: InvalidRequest,
    422: InvalidRequest,
}


def of_response(status: int, headers: Mapping[str, str], body: bytes) -> ClientError:
    """The error that a response other than 200 stands for."""
    text = f"{status}: {_words(body)}"
    if status in (429, 503):
        kind = TooManyRequests if status == 429 else Unavailable
        return kind(text, status, _seconds(headers.get("retry-after")))
    return _BY_STATUS.get(status, ServerFailed)(text, status)


def _words(body: bytes) -> str:
    """What the server says: the `detail` of a JSON object (FastAPI's form), or the body."""
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        said = body.decode(errors="replace").strip()
    if isinstance(said, str) and said.startswith("{"):  # Feast sends its details as JSON within JSON
        said = _object(said)
    if isinstance(said, dict):
        said = said.get("detail") or said.get("message") or said
    if isinstance(said, dict):
        said = said.get("message", said)
    return said if isinstance(said, str) else json.dumps(said)


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is not used by our servers."""
    try:
        return max(0.0, float(retry_after)) if retry_after is not None else None
    except ValueError:
        return None
