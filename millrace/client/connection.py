"""The clients: requests over pooled connections, sync and async, by one and the same rule of retries."""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from ssl import SSLContext, create_default_context
from types import TracebackType
from typing import Any, Protocol, Self

import anyio
import httpx
import orjson

from millrace.client.answer import OnlineFeatures, nearest_first, read_answer
from millrace.client.errors import ClientError, InvalidAnswer, TimedOut, Unreachable, of_response
from millrace.client.retry import Attempts

FEATURES = "/get-online-features"
DOCUMENTS = "/retrieve-online-documents"


class Column(Protocol):
    """Values in order: a list, or what becomes one (NumPy, pandas, Arrow)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


Columns = Mapping[str, Column]
"""Join keys by name, one value an entity."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files (PEM) for a server whose certificate is not of a public authority (`ca`), and for one that asks its
    clients for a certificate (`cert`, `key`)."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> SSLContext:
        """As Python's ssl wants it. Raises `OSError` and `ssl.SSLError`."""
        context = create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


STEPS = ("pool", "connect", "write", "read")
"""Of a request, each with a time-out of its own in httpx."""

SAID_FIRST = 0.01
"""Seconds by which httpx's own time-outs come first: they tell a connection that did not come about from an answer."""

IDLE_SECONDS = 3.0
"""How long a connection is kept without a request. The server closes one after `serve.header_seconds`, 5 by default:
what is sent just then is lost, and asked again."""


class _Left(Mapping[str, float]):
    """httpx's time-outs, in seconds: each step of a request may take what is left of it as the step begins."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def __getitem__(self, step: str) -> float:
        return max(self.end - time.monotonic(), 0.001)  # 0 would be a socket that never waits

    def __iter__(self) -> Iterator[str]:
        return iter(STEPS)

    def __len__(self) -> int:
        return len(STEPS)


@dataclass(frozen=True, slots=True)
class _Response:
    """What came back, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Requests:
    """What both clients share: how a request is made and a response is read."""

    def __init__(self, url: str, *, key: str | None, timeout: float, retries: int) -> None:
        self._url = _address(url)
        self._timeout = timeout
        self._retries = retries
        self._headers = {"content-type": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {_one_word(key)}"

    def _attempts(self) -> Attempts:
        return Attempts(self._timeout, self._retries)

    def _built(self, client: Any, path: str, body: bytes, left: _Left) -> httpx.Request:
        built: httpx.Request = client.build_request("POST", self._url + path, content=body, headers=self._headers)
        built.extensions["timeout"] = left
        return built

    def _late(self) -> TimedOut:
        return TimedOut(f"{self._url}: the response was not whole within {self._timeout:g} s")

    def _failure(self, error: httpx.RequestError) -> ClientError:
        """What it means before a response has begun."""
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return TimedOut(f"{self._url}: no response in time ({type(error).__name__})")
        return Unreachable(f"{self._url}: {type(error).__name__}: {error}")

    def _broken(self, response: httpx.Response, error: httpx.RequestError) -> ClientError:
        """What it means within the body of a response, whose status is known."""
        if isinstance(error, httpx.TimeoutException):
            return self._failure(error)
        words = f"{self._url}: the response cannot be read to its end ({type(error).__name__}: {error})"
        if response.status_code == 200:
            return InvalidAnswer(words, 200)
        return of_response(response.status_code, response.headers, words.encode())


def _address(url: str) -> str:
    """A server's address, without a slash at its end. It is not quoted where it is refused: it may hold a password.
    Raises `ValueError`."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("url is no address of a server: write it as http://host:6566 or https://host:6566")
    return url.rstrip("/")


def _one_word(key: str) -> str:
    """A key, without the end of the line it stands on. What else could not be sent is refused here: httpx would quote
    it. Raises `ValueError`."""
    word = key.strip()
    if not re.fullmatch("[!-~]+", word):
        raise ValueError("key is no API key: it has to be one word of ASCII, as `millrace keys add` printed it")
    return word


def _read(response: _Response) -> OnlineFeatures:
    if response.status != 200:
        raise of_response(response.status, response.headers, response.body)
    try:
        document = orjson.loads(response.body)
    except orjson.JSONDecodeError as error:
        raise InvalidAnswer(f"the response is not JSON: {error}", response.status) from None
    return read_answer(document)


def _features_body(
    features: Sequence[str], feature_service: str | None, entities: Columns, full_feature_names: bool
) -> bytes:
    if bool(features) == bool(feature_service):
        raise ValueError("name features, or a feature_service, and not both")
    _check_columns(entities)
    lengths = {name: len(column) for name, column in entities.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the join keys have columns of different lengths: {lengths}")
    asked = {"feature_service": feature_service} if feature_service else {"features": list(features)}
    columns = {name: _list(column) for name, column in entities.items()}
    body = {**asked, "entities": columns, "full_feature_names": full_feature_names}
    return _json(body, {f"entities[{name!r}]": column for name, column in columns.items()})


def _check_columns(entities: Columns) -> None:
    if not hasattr(entities, "items"):  # as a data frame has, too
        raise ValueError(f"entities is a dict of columns, one a join key, and not a {type(entities).__name__}")
    for name, column in entities.items():
        if isinstance(column, str | bytes):
            raise ValueError(f"entities[{name!r}] is a list, one value an entity: [{column!r}]")


def _documents_body(
    features: Sequence[str], query: Column | None, query_string: str | None, top_k: int, filters: Any
) -> bytes:
    if (query is None) == (query_string is None):
        raise ValueError("search by a vector (query) or by a text (query_string), and not by both")
    asked = {
        "query": None if query is None else _list(query),
        "query_string": query_string,
        "filters": filters,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    return _json({"features": list(features), "top_k": top_k, "api_version": 2, **given}, given)


def _list(column: Any) -> list[Any]:
    if str(getattr(column, "dtype", "")) == "datetime64[ns]":  # which NumPy would list as integers
        column = column.astype("datetime64[us]")
    for method in ("to_pylist", "tolist"):  # Arrow; NumPy and pandas
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def _plain(value: Any) -> Any:
    """A moment of pandas, which orjson does not know, as ISO 8601; a number of NumPy as Python's. Raises `TypeError`
    for anything else."""
    if isinstance(value, datetime):
        return value.isoformat()
    if getattr(getattr(value, "dtype", None), "kind", "") in ("b", "i", "u", "f") and not getattr(value, "shape", ()):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def _json(body: Mapping[str, Any], parts: Mapping[str, Any]) -> bytes:
    """A request's body. Raises `ValueError` that names the one of its parts that cannot be sent."""
    try:
        return orjson.dumps(body, default=_plain)
    except TypeError as error:
        unfit = next((name for name, part in parts.items() if not _can_be_sent(part)), "the request")
        raise ValueError(f"{unfit}: {error.__cause__ or error}") from None


def _can_be_sent(part: Any) -> bool:
    try:
        orjson.dumps(part, default=_plain)
    except TypeError:
        return False
    return True


class Client(_Requests):
    """A sync client. May be shared by threads; `close` it, or use it as a context."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 1.0,
        retries: int = 2,
        connections: int = 20,
        tls: Tls | None = None,
    ) -> None:
        """`timeout` is in seconds, for a whole call with its `retries`; `connections` is the size of the pool.

        The time is looked at as each step of a request begins and with each part of an answer: one that stops coming
        midway may be waited for as long again, and so may each address of a host that has several, and TLS after it.
        Raises `ValueError` for a `url` that is none of HTTP, and for a `key` that could not be sent.
        """
        super().__init__(url, key=key, timeout=timeout, retries=retries)
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_SECONDS
        )
        self._client = httpx.Client(limits=limits, verify=tls.context() if tls else True)

    def get_online_features(
        self,
        features: Sequence[str] = (),
        *,
        entities: Columns,
        feature_service: str | None = None,
        full_feature_names: bool = False,
    ) -> OnlineFeatures:
        """The features (`"view:feature"`), or those of a feature service, of each entity. Raises `ClientError`."""
        return self._call(FEATURES, _features_body(features, feature_service, entities, full_feature_names))

    def retrieve_online_documents(
        self,
        features: Sequence[str],
        *,
        query: Column | None = None,
        query_string: str | None = None,
        top_k: int = 10,
        filters: Any = None,
    ) -> OnlineFeatures:
        """The entities of a vector view nearest to a vector or a text, nearest first. Raises `ClientError`.

        `filters` are Feast's `ComparisonFilter` or `CompoundFilter` as a dict.
        """
        return nearest_first(self._call(DOCUMENTS, _documents_body(features, query, query_string, top_k, filters)))

    def _call(self, path: str, body: bytes) -> OnlineFeatures:
        attempts = self._attempts()
        while True:
            try:
                return _read(self._sent(path, body, attempts.left()))
            except ClientError as failure:
                pause = attempts.pause(failure)
            time.sleep(pause)

    def _sent(self, path: str, body: bytes, seconds: float) -> _Response:
        left = _Left(seconds)
        try:
            with closing(self._client.send(self._built(self._client, path, body, left), stream=True)) as response:
                return self._whole(response, left)
        except httpx.RequestError as error:
            raise self._failure(error) from error

    def _whole(self, response: httpx.Response, left: _Left) -> _Response:
        parts = []
        try:
            for part in response.iter_bytes():
                if time.monotonic() > left.end:
                    raise self._late()
                parts.append(part)
        except httpx.RequestError as error:
            raise self._broken(response, error) from error
        return _Response(response.status_code, response.headers, b"".join(parts))

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncClient(_Requests):
    """An async client, of one event loop; `close` it, or use it as a context."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 1.0,
        retries: int = 2,
        connections: int = 100,
        tls: Tls | None = None,
    ) -> None:
        """As `Client`; the time-out ends a call wherever it is.

        A call that is cancelled ends at once. If it had a connection, that is in use until the answer has come, by the
        time-out at the latest, or until `close`.
        """
        super().__init__(url, key=key, timeout=timeout, retries=retries)
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_SECONDS
        )
        self._client = httpx.AsyncClient(limits=limits, verify=tls.context() if tls else True)
        self._places = asyncio.Semaphore(connections)
        """Those of the pool: who waits for one here can be cancelled, and nothing of it is sent."""
        self._abandoned: set[asyncio.Task[_Response]] = set()
        """What calls that were cancelled had under way."""

    async def get_online_features(
        self,
        features: Sequence[str] = (),
        *,
        entities: Columns,
        feature_service: str | None = None,
        full_feature_names: bool = False,
    ) -> OnlineFeatures:
        """As `Client.get_online_features`."""
        return await self._call(FEATURES, _features_body(features, feature_service, entities, full_feature_names))

    async def retrieve_online_documents(
        self,
        features: Sequence[str],
        *,
        query: Column | None = None,
        query_string: str | None = None,
        top_k: int = 10,
        filters: Any = None,
    ) -> OnlineFeatures:
        """As `Client.retrieve_online_documents`."""
        body = _documents_body(features, query, query_string, top_k, filters)
        return nearest_first(await self._call(DOCUMENTS, body))

    async def _call(self, path: str, body: bytes) -> OnlineFeatures:
        attempts = self._attempts()
        while True:
            try:
                return _read(await self._sent(path, body, attempts.left()))
            except ClientError as failure:
                pause = attempts.pause(failure)
            await asyncio.sleep(pause)

    async def _sent(self, path: str, body: bytes, seconds: float) -> _Response:
        left = _Left(seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError:
            raise TimedOut(f"{self._url}: no connection was free in time") from None
        # In a task of its own: a cancellation as httpcore takes a connection into use, or gives it back, would lose the
        # connection's place in the pool for good.
        attempt = asyncio.create_task(self._attempt(path, body, left))
        attempt.add_done_callback(lambda _: self._places.release())
        try:
            await asyncio.wait((attempt,))
        except asyncio.CancelledError:
            self._abandoned.add(attempt)
            attempt.add_done_callback(self._forget)
            raise
        return attempt.result()

    def _forget(self, attempt: asyncio.Task[_Response]) -> None:
        self._abandoned.discard(attempt)
        if not attempt.cancelled():
            attempt.exception()  # or asyncio would log that nobody asked for it

    async def _attempt(self, path: str, body: bytes, left: _Left) -> _Response:
        request = self._built(self._client, path, body, left)
        try:
            # Not asyncio's time-out, for which httpcore does not hold back where it gives a connection back.
            with anyio.fail_after(left["read"] + SAID_FIRST):
                async with aclosing(await self._client.send(request, stream=True)) as response:
                    return await self._whole(response)
        except TimeoutError:
            raise self._late() from None
        except httpx.RequestError as error:
            raise self._failure(error) from error

    async def _whole(self, response: httpx.Response) -> _Response:
        try:
            body = await response.aread()
        except httpx.RequestError as error:
            raise self._broken(response, error) from error
        return _Response(response.status_code, response.headers, body)

    async def close(self) -> None:
        """Closes the connections."""
        abandoned = [*self._abandoned]
        for attempt in abandoned:
            attempt.cancel()
        await asyncio.gather(*abandoned, return_exceptions=True)
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
