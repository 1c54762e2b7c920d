"""Kafka Connect's REST interface: the one place that speaks it.

https://kafka.apache.org/documentation/#connect_rest
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

import requests
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema

Applied = Literal["created", "updated", "unchanged"]

_TRACE_LINES = 6

_CREDENTIALS = "; look at the user and the password in connect.url of millrace.yaml, http://USER:PASSWORD@HOST:PORT"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

# What passes by itself: PostgreSQL, Kafka or the network was away, or another connection still holds the slot.
_RETRIABLE = re.compile(
    r"is active for PID|connection refused|connection reset|connection attempt failed|connection to .* failed"
    r"|replication stream has been closed|inactive copy operation"
    r"|broken pipe|i/o error|terminating connection|database system is (starting up|shutting down|in recovery)"
    r"|too many clients|remaining connection slots|UnknownHostException|SocketTimeoutException|EOFException"
    r"|org\.apache\.kafka\.common\.errors\.(Timeout|Disconnect|Network|NotEnoughReplicas)\w*Exception"
    r"|org\.apache\.kafka\.connect\.errors\.RetriableException",
    re.IGNORECASE,
)

# The slot is not there, was invalidated, or was made anew or advanced past the stored position.
_GAP = re.compile(
    r"no longer available on the server|can no longer (access|get changes from) replication slot"
    r"|offset.{0,80}(behind|before).{0,40}slot|slot.{0,80}ahead of.{0,40}offset|trust_offset",
    re.IGNORECASE,
)

# Debezium has no value for a column: in practice it is TOASTed, was left alone, and has a type without a placeholder.
_UNREADABLE = "Failed to properly convert data value for"


@dataclass(frozen=True, slots=True)
class Position:
    """How far Connect has stored that a connector has come: the LSN of what it sent last, and the kind of snapshot that
    was under way there."""

    lsn: int
    snapshot: Literal["initial", "incremental"] | None


class ConnectUnavailable(Exception):
    """Kafka Connect does not answer, or is busy rebalancing for longer than the client waits."""


class ConnectRefused(Exception):
    """Kafka Connect refused a request: the text is its own reason."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one property of a connector's configuration."""

    field: str
    message: str


class ConfigInvalid(Exception):
    """Kafka Connect refuses a configuration: `errors` says why, property by property."""

    def __init__(self, errors: tuple[FieldError, ...]) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed task, or with `task` None the failed connector; `reason` is what its trace tells.

    A retriable failure passes by itself: a restart is worth trying.
    """

    connector: str
    task: int | None
    reason: str
    retriable: bool


class ConnectorFailed(Exception):
    """A connector's tasks have failed."""

    def __init__(self, failures: tuple[Failure, ...]) -> None:
        super().__init__("; ".join(f"connector {f.connector}: {f.reason}" for f in failures))
        self.failures = failures


@dataclass(frozen=True, slots=True)
class TaskState:
    """One task; `state` is UNASSIGNED, RUNNING, PAUSED, FAILED or RESTARTING; `trace` of a failed one."""

    task: int
    state: str
    worker: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class ConnectorState:
    """A connector and its tasks. A connector can be RUNNING while its only task is FAILED: `running` asks
    the tasks."""

    name: str
    state: str
    trace: str
    tasks: tuple[TaskState, ...]

    @property
    def running(self) -> bool:
        """Whether the connector has tasks and all of them run."""
        return bool(self.tasks) and all(state == "RUNNING" for state in (self.state, *(t.state for t in self.tasks)))

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The failed tasks, or the connector itself."""
        failed: list[tuple[int | None, str]] = [(t.task, t.trace) for t in self.tasks if t.state == "FAILED"]
        if self.state == "FAILED":
            failed.insert(0, (None, self.trace))
        return tuple(
            Failure(self.name, task, _advice(self.name, trace) + _head(trace), bool(_RETRIABLE.search(trace)))
            for task, trace in failed
        )


class Connect:
    """A client of the Kafka Connect cluster at `url`, which may carry a user and a password; no text shows them.

    Every call waits out rebalances (409), time-outs and a worker that is away, with backoff, for `patience`
    seconds, and then raises `ConnectUnavailable`. Anything else that Connect refuses is `ConnectRefused`.
    """

    def __init__(
        self, url: str, *, patience: float = 30.0, timeout: float = 20.0, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._url, credentials = _split(url.rstrip("/"))
        self._patience = patience
        self._timeout = timeout
        self._sleep = sleep
        self._session = requests.Session()
        self._session.auth = credentials
        self._proxies = _none_on_this_machine(self._url)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def validate(self, config: Mapping[str, str]) -> None:
        """Have Connect and the connector check a configuration, the database included.

        Raises `ConfigInvalid` with one error a property and message.
        """
        plugin = config["connector.class"].rsplit(".", 1)[-1]
        body = {"name": plugin, **config}
        answer = self._call("PUT", f"/connector-plugins/{quote(plugin)}/config/validate", body)
        values = [item["value"] for item in answer["configs"]]
        errors = tuple(FieldError(v["name"], message) for v in values for message in v["errors"])
        if errors:
            raise ConfigInvalid(errors)

    def apply(self, name: str, config: Mapping[str, str]) -> Applied:
        """Bring a connector to `config`, and have it run if it was stopped or paused.

        An unchanged one is left alone, because a PUT restarts its tasks. Raises `ConfigInvalid` before
        anything is changed.
        """
        path = f"{_path(name)}/config"
        wanted = {**config, "name": name}
        current = self._find(path)
        if current == wanted:
            return "updated" if self._resume(name) else "unchanged"
        self.validate(wanted)
        outcome: Applied = "created" if current is None else "updated"
        for last in self._backoff():
            try:
                self._once("PUT", path, wanted)
            except _Busy as busy:
                # A request that timed out may still have been applied.
                if self._find(path) != wanted:
                    if last:
                        raise ConnectUnavailable(str(busy)) from busy
                    continue
            self._resume(name)
            return outcome
        raise AssertionError("backoff always has a last attempt")

    def names(self) -> Sequence[str]:
        """The names of all connectors, of whatever kind."""
        answer: Sequence[str] = self._call("GET", "/connectors")
        return answer

    def config(self, name: str) -> Mapping[str, str] | None:
        """A connector's configuration; None if there is no such connector."""
        answer: Mapping[str, str] | None = self._find(f"{_path(name)}/config")
        return answer

    def create_stopped(self, name: str, config: Mapping[str, str]) -> None:
        """Create a connector that does not run until it is applied; one that exists is left as it is."""
        body = {"name": name, "config": config, "initial_state": "STOPPED"}
        for last in self._backoff():
            if self._find(_path(name)) is not None:
                return
            try:
                self._once("POST", "/connectors", body)
            except _Busy as busy:  # it may have been created all the same
                if last:
                    raise ConnectUnavailable(str(busy)) from busy
            else:
                return

    def state(self, name: str) -> ConnectorState | None:
        """The state of a connector and its tasks; None if there is no such connector."""
        answer = self._find(f"{_path(name)}/status")
        if answer is None:
            return None
        tasks = [TaskState(t["id"], t["state"], t["worker_id"], t.get("trace", "")) for t in answer["tasks"]]
        connector = answer["connector"]
        return ConnectorState(name, connector["state"], connector.get("trace", ""), tuple(tasks))

    def wait_running(self, name: str, timeout: float) -> ConnectorState:
        """Wait until all tasks run. Raises `ConnectorFailed` as soon as one has failed for good, and
        `TimeoutError` after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            state = self.state(name)
            if state is not None and state.running:
                return state
            failures = state.failures if state else ()
            if any(not failure.retriable for failure in failures) or (failures and time.monotonic() > deadline):
                raise ConnectorFailed(failures)
            if time.monotonic() > deadline:
                raise TimeoutError(f"connector {name} is {state.state if state else 'absent'} after {timeout:g} s")
            self._sleep(0.1)

    def restart_failed(self, name: str) -> tuple[Failure, ...]:
        """Restart failed tasks whose failure passes by itself, with backoff, until none is left.

        Connect never restarts one by itself. Returns the failures that remain: those for good, which are
        never restarted, or after `patience` seconds the retriable ones too.
        """
        failures: tuple[Failure, ...] = ()
        for _ in self._backoff():
            state = self.state(name)
            failures = state.failures if state else ()
            if not any(failure.retriable for failure in failures):
                break
            self._call("POST", f"{_path(name)}/restart?includeTasks=true&onlyFailed=true")
        return failures

    def position(self, name: str) -> Position | None:
        """The connector's stored position; None if it has none yet."""
        answer = self._find(f"{_path(name)}/offsets") or {"offsets": []}
        offsets = [item["offset"] for item in answer["offsets"] if item.get("offset")]
        # The newest of them: lsn is that of the last event, the others those of finished transactions.
        keys = ("lsn", "lsn_proc", "lsn_commit")
        found = [Position(int(o[key]), _snapshot(o)) for o in offsets for key in keys if o.get(key) is not None]
        return max(found, key=lambda position: position.lsn, default=None)

    def offset_lsn(self, name: str) -> int | None:
        """The LSN of the connector's stored position; None if it has none yet."""
        position = self.position(name)
        return position.lsn if position is not None else None

    def stop(self, name: str) -> None:
        """Stop a connector's tasks, and wait until they have; its position stays stored."""
        self._call("PUT", f"{_path(name)}/stop")
        for last in self._backoff():
            state = self.state(name)
            if state is None or (state.state == "STOPPED" and not state.tasks):
                return
            if last:
                raise ConnectUnavailable(f"connector {name} at {self._url} does not stop")

    def reset(self, name: str) -> None:
        """Stop a connector and forget its position: once applied again, it takes a new snapshot."""
        self.stop(name)
        self._call("DELETE", f"{_path(name)}/offsets")

    def delete(self, name: str) -> bool:
        """Delete a connector; False if there was none. Its position stays stored until `reset`."""
        return self._find(_path(name), "DELETE") is not None

    def _resume(self, name: str) -> bool:
        """Have a stopped or paused connector run again; False if it was neither."""
        state = self.state(name)
        if state is None or state.state not in ("STOPPED", "PAUSED"):
            return False
        self._call("PUT", f"{_path(name)}/resume")
        return True

    def _find(self, path: str, method: str = "GET") -> Any:
        """The answer, an empty one as {}, or None for 404."""
        try:
            return self._call(method, path)
        except _Missing:
            return None

    def _call(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Any:
        for last in self._backoff():
            try:
                return self._once(method, path, body)
            except _Busy as busy:
                if last:
                    raise ConnectUnavailable(str(busy)) from busy
        raise AssertionError("backoff always has a last attempt")

    def _backoff(self) -> Iterator[bool]:
        """Attempts, with a doubling pause between them; True for the last one, when patience is spent."""
        start, waited, pause = time.monotonic(), 0.0, 0.1
        while max(waited, time.monotonic() - start) < self._patience:
            yield False
            self._sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 2.0)
        yield True

    def _once(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        try:
            response = self._session.request(
                method, self._url + path, json=body, timeout=self._timeout, proxies=self._proxies
            )
            if response.ok:
                return response.json() if response.content else {}
        except (MissingSchema, InvalidSchema, InvalidURL, requests.JSONDecodeError) as error:
            raise ConnectRefused(f"{self._url} is not Kafka Connect: {error}") from error
        except requests.RequestException as error:
            raise _Busy(f"Kafka Connect at {self._url} does not answer: {_cause(error)}") from error
        message = _message(response)
        if response.status_code in (409, 503) or (response.status_code == 500 and "timed out" in message.lower()):
            raise _Busy(f"Kafka Connect at {self._url} is busy: {message}")
        failure = _Missing if response.status_code == 404 else ConnectRefused
        advice = _CREDENTIALS if response.status_code in (401, 403) else ""
        raise failure(f"Kafka Connect at {self._url} refused {method} {path}: {response.status_code} {message}{advice}")


def _snapshot(offset: Mapping[str, Any]) -> Literal["initial", "incremental"] | None:
    """Which snapshot Debezium was taking when it sent what this offset stands for: what an initial one has sent names
    the snapshot and whether it is complete, what is sent during an incremental one where that goes on."""
    if offset.get("snapshot") and not offset.get("snapshot_completed"):
        return "initial"
    return "incremental" if any(key.startswith("incremental_snapshot") for key in offset) else None


def _split(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without its user and password, and those two apart: requests repeats in its errors the URL that it is
    given. Up to the last "@", for not everybody quotes a slash in a password."""
    before, at, place = url.rpartition("@")
    if not at:
        return url, None
    scheme = _SCHEME.match(before)
    start = scheme.end() if scheme else 0
    user, _, password = before[start:].partition(":")
    return before[:start] + place, (unquote(user), unquote(password))


def _none_on_this_machine(url: str) -> dict[str, str]:
    """What keeps requests from asking a Connect on this machine by the proxies of the environment, which lead away
    from it."""
    with suppress(ValueError):
        host = urlsplit(url).hostname or ""
        if host == "localhost" or ip_address(host).is_loopback:
            return {"no_proxy": host}
    return {}


def _path(name: str) -> str:
    return f"/connectors/{quote(name, safe='')}"


class _Busy(Exception):
    """Worth another attempt."""


class _Missing(ConnectRefused):
    """404."""


def _message(response: requests.Response) -> str:
    """What an answer tells; of a page, such as a proxy answers, only its status."""
    try:
        return str(response.json()["message"])
    except (requests.JSONDecodeError, KeyError, TypeError):
        text = " ".join(response.text.split())
        return response.reason if text.startswith("<") else text[:500]


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed request: requests wraps it three times."""
    reason: object = error.args[0] if error.args else error
    return str(getattr(reason, "reason", reason))


def _advice(connector: str, trace: str) -> str:
    """What to do about a failure that only one thing mends; empty for the others."""
    if _GAP.search(trace):
        return f"its slot lost changes that it has not read: run millrace recover {connector}\n"
    if _UNREADABLE in trace:
        return (
            "a change in the log cannot be read, mostly because it left a large value alone and its table or partition "
            "has no REPLICA IDENTITY FULL: run millrace apply, which sets it and may end with this message again, then "
            f"millrace recover {connector}, which reads all tables anew in place of that change\n"
        )
    return ""


def _head(trace: str) -> str:
    """The lines of a Java trace that tell, the innermost cause first."""
    lines = [line.strip() for line in trace.splitlines() if not line.startswith(("\tat", "\t..."))]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return "\n".join([*causes[-1:], *lines][:_TRACE_LINES])
