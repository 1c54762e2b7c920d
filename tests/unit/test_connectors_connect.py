"""The Connect client against a small HTTP server that is busy, slow, or answers late."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from connectors.connect import ConfigInvalid, Connect, ConnectRefused, ConnectUnavailable, FieldError, Position

CONFIG = {"connector.class": "io.debezium.PostgresConnector", "a": "1"}


@dataclass
class Peer:
    """A Kafka Connect of one connector, which gets in the way as told.

    `trouble` is used up, one status a request, and answered instead. `puts` is the same for the PUTs of a
    configuration, where 500 comes late: it is applied, but Connect was too slow to say so.
    """

    url: str = ""
    config: dict[str, str] | None = None
    errors: dict[str, list[str]] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    state: str = "RUNNING"
    trouble: list[int] = field(default_factory=list)
    puts: list[int] = field(default_factory=list)
    restarts_needed: int = 0
    requests: list[str] = field(default_factory=list)
    page: str = ""
    authorizations: list[str | None] = field(default_factory=list)
    offset: dict[str, Any] = field(default_factory=lambda: {"lsn": 5, "lsn_commit": 7})

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.requests.append(f"{method} {path}")
        is_put = method == "PUT" and path.endswith("/connectors/c/config")
        troubles = self.puts if is_put else self.trouble
        trouble = troubles.pop(0) if troubles else None
        if trouble == 500:
            self._do(method, path, body)
            return 500, {"error_code": 500, "message": "Request timed out. The worker is busy."}
        if trouble:
            return trouble, {"error_code": trouble, "message": "trouble"}
        return self._do(method, path, body)

    def _do(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        match method, path.split("/")[-1].split("?")[0]:
            case "PUT", "validate":
                names = {**body, **self.errors}
                return 200, {"configs": [{"value": {"name": n, "errors": self.errors.get(n, [])}} for n in names]}
            case "PUT", "config":
                created, self.config = self.config is None, body
                return 201 if created else 200, {}
            case "GET", "config" if self.config:
                return 200, self.config
            case "GET", "status" if self.config:
                connector = {"state": self.state, "worker_id": "w"}
                return 200, {"name": "c", "connector": connector, "tasks": self.tasks}
            case "POST", "restart":
                self.restarts_needed -= 1
                if self.restarts_needed <= 0:
                    self.tasks = [{"id": 0, "state": "RUNNING", "worker_id": "w"}]
                return 202, {}
            case "PUT", "stop":
                return 204, None
            case "PUT", "resume":
                self.state = "RUNNING"
                return 202, None
            case "GET", "offsets" if self.config:
                return 200, {"offsets": [{"partition": {"server": "c"}, "offset": self.offset}]}
            case "DELETE", "c" if self.config:
                self.config = None
                return 204, None
        return 404, {"error_code": 404, "message": "Connector c not found"}


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            peer.authorizations.append(self.headers.get("Authorization"))
            status, answer = peer.answer(self.command, self.path, body)
            content = b"" if answer is None else json.dumps(answer).encode()
            if peer.page:
                status, content = 403, peer.page.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = handle_any  # the names that http.server calls

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    peer.url = f"http://127.0.0.1:{server.server_port}"
    yield peer
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def connect(peer: Peer, pauses: list[float]) -> Iterator[Connect]:
    connect = Connect(peer.url, sleep=pauses.append)
    yield connect
    connect.close()


def puts(peer: Peer) -> int:
    return peer.requests.count("PUT /connectors/c/config")


def test_create_leave_alone_update(peer: Peer, connect: Connect) -> None:
    assert connect.apply("c", CONFIG) == "created"
    assert connect.apply("c", CONFIG) == "unchanged"
    assert connect.apply("c", CONFIG | {"a": "2"}) == "updated"
    assert puts(peer) == 2
    assert peer.config == CONFIG | {"a": "2", "name": "c"}


def test_one_on_the_machine_itself_is_asked_past_its_proxies(
    peer: Peer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert connect.apply("c", CONFIG) == "created"
    away = Connect("http://connect.invalid:8083", patience=0, sleep=lambda seconds: None)
    with pytest.raises(ConnectUnavailable, match=r"127\.0\.0\.1|[Pp]roxy"):
        away.config("c")
    away.close()


def test_the_configuration_as_it_is(peer: Peer, connect: Connect) -> None:
    assert connect.config("shop") is None
    connect.apply("shop", CONFIG)
    assert connect.config("shop") == {**CONFIG, "name": "shop"}


def test_a_rebalance_is_waited_for(peer: Peer, connect: Connect, pauses: list[float]) -> None:
    peer.trouble = [409, 409, 503]
    assert connect.apply("c", CONFIG) == "created"
    assert pauses == [0.1, 0.2, 0.4]


def test_a_rebalance_during_the_put_reads_the_state_again(peer: Peer, connect: Connect) -> None:
    peer.config = {"name": "c"}
    peer.puts = [409, 409]
    assert connect.apply("c", CONFIG) == "updated"
    assert puts(peer) == 3
    assert peer.requests.count("GET /connectors/c/config") == 3


def test_a_put_that_timed_out_but_was_applied_is_not_repeated(peer: Peer, connect: Connect) -> None:
    peer.puts = [500]
    assert connect.apply("c", CONFIG) == "created"
    assert puts(peer) == 1


def test_errors_by_field_change_nothing(peer: Peer, connect: Connect) -> None:
    peer.errors = {"a": ["is no number", "is too long"], "database.hostname": ["cannot be reached"]}
    with pytest.raises(ConfigInvalid) as caught:
        connect.apply("c", CONFIG)
    assert caught.value.errors == (
        FieldError("a", "is no number"),
        FieldError("a", "is too long"),
        FieldError("database.hostname", "cannot be reached"),
    )
    assert peer.config is None


def test_what_stays_busy_is_unavailable(peer: Peer, pauses: list[float]) -> None:
    peer.trouble = [409] * 100
    connect = Connect(peer.url, patience=3, sleep=pauses.append)
    with pytest.raises(ConnectUnavailable, match="busy: trouble"):
        connect.state("c")
    assert sum(pauses) >= 3
    assert max(pauses) <= 2
    connect.close()


def test_nobody_there(pauses: list[float]) -> None:
    connect = Connect("http://127.0.0.1:1", patience=1, sleep=pauses.append)
    with pytest.raises(ConnectUnavailable, match=r"http://127.0.0.1:1 does not answer: .*refused"):
        connect.state("c")
    assert sum(pauses) >= 1


def test_other_refusals_are_not_repeated(peer: Peer, connect: Connect, pauses: list[float]) -> None:
    peer.trouble = [400]
    with pytest.raises(ConnectRefused, match="400 trouble"):
        connect.state("c")
    assert not pauses


def test_an_address_of_something_else() -> None:
    with pytest.raises(ConnectRefused, match="not Kafka Connect"):
        Connect("127.0.0.1:8083").state("c")


@pytest.mark.parametrize("trouble", [[], [503] * 9, [401], [400]])
def test_a_password_in_the_url_is_sent_and_never_shown(peer: Peer, trouble: list[int]) -> None:
    peer.trouble = trouble
    url = peer.url.replace("://", "://ops:s3%2Fcret@") if trouble else "http://ops:s3%2Fcret@127.0.0.1:1"
    connect = Connect(url, patience=0)
    with pytest.raises((ConnectUnavailable, ConnectRefused)) as caught:
        connect.state("c")
    assert "Kafka Connect at http://127.0.0.1:" in str(caught.value)
    assert not {word for word in ("ops", "s3", "cret") if word in str(caught.value)}
    if trouble:
        assert set(peer.authorizations) == {f"Basic {b64encode(b'ops:s3/cret').decode()}"}


@pytest.mark.parametrize(
    "url",
    [
        "ops:s3cret@127.0.0.1:8083",
        "ftp://ops:s3cret@x",
        "http://ops:s3cret@",
        "http://ops:s3cret@x:port",
        "http://ops:cret/cret://cret@cret@x:port",
    ],
)
def test_an_address_that_cannot_be_used_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConnectRefused, match="not Kafka Connect") as caught:
        Connect(url).state("c")
    assert "cret" not in str(caught.value)


def test_a_connector_that_does_not_stop_is_told_without_the_password(peer: Peer, pauses: list[float]) -> None:
    peer.config, peer.tasks = {"name": "c"}, [{"id": 0, "state": "RUNNING", "worker_id": "w"}]
    connect = Connect(peer.url.replace("://", "://ops:s3cret@"), patience=0.1, sleep=pauses.append)
    with pytest.raises(ConnectUnavailable, match="does not stop") as caught:
        connect.stop("c")
    assert "cret" not in str(caught.value)


def test_a_page_of_a_proxy_is_told_by_its_status(peer: Peer, connect: Connect) -> None:
    peer.page = "<html>\n<h1>Forbidden</h1></html>"
    with pytest.raises(ConnectRefused, match=r"GET /connectors/c/status: 403 Forbidden; .*connect.url") as caught:
        connect.state("c")
    assert "<" not in str(caught.value)


def failed(trace: str) -> dict[str, Any]:
    return {"id": 0, "state": "FAILED", "worker_id": "w", "trace": trace}


SLOT_HELD = (
    "org.apache.kafka.connect.errors.ConnectException: Could not start\n"
    "\tat io.debezium.Some.method(Some.java:1)\n"
    'Caused by: org.postgresql.util.PSQLException: ERROR: replication slot "s" is active for PID 42\n'
    "\t... 3 more\n"
)


def test_a_connector_runs_if_its_tasks_run(peer: Peer, connect: Connect) -> None:
    peer.config = {"name": "c"}
    for tasks, running in (
        ([], False),
        ([{"id": 0, "state": "RUNNING", "worker_id": "w"}], True),
        ([{"id": 0, "state": "RUNNING", "worker_id": "w"}, failed("x")], False),
    ):
        peer.tasks = tasks
        state = connect.state("c")
        assert state is not None
        assert state.running is running


def test_a_failure_that_passes_is_restarted_until_it_is_gone(peer: Peer, connect: Connect, pauses: list[float]) -> None:
    peer.config, peer.tasks, peer.restarts_needed = {"name": "c"}, [failed(SLOT_HELD)], 3
    assert connect.restart_failed("c") == ()
    assert peer.requests.count("POST /connectors/c/restart?includeTasks=true&onlyFailed=true") == 3
    assert pauses == [0.1, 0.2, 0.4]


@pytest.mark.parametrize("said", ["Tried to write to an inactive copy operation", "Connection refused", "Broken pipe"])
def test_a_lost_connection_passes(peer: Peer, connect: Connect, said: str) -> None:
    peer.config, peer.tasks = {"name": "c"}, [failed(f"org.postgresql.util.PSQLException: {said}\n")]
    peer.restarts_needed = 1000
    (failure,) = connect.restart_failed("c")
    assert failure.retriable


def test_a_failure_for_good_is_never_restarted(peer: Peer, connect: Connect) -> None:
    peer.config, peer.tasks = {"name": "c"}, [failed("java.lang.NullPointerException: x\n\tat a.b(C.java:1)\n")]
    (failure,) = connect.restart_failed("c")
    assert (failure.retriable, failure.reason) == (False, "java.lang.NullPointerException: x")
    assert not [request for request in peer.requests if request.startswith("POST")]


def test_the_innermost_cause_comes_first(peer: Peer, connect: Connect) -> None:
    peer.config, peer.tasks, peer.restarts_needed = {"name": "c"}, [failed(SLOT_HELD)], 1000
    (failure,) = connect.restart_failed("c")
    assert failure.retriable
    assert failure.reason.startswith('org.postgresql.util.PSQLException: ERROR: replication slot "s" is active')


def test_what_debezium_cannot_read_in_the_log_is_told_with_what_to_do(peer: Peer, connect: Connect) -> None:
    """A restart reads the same again, and REPLICA IDENTITY FULL mends only what is written from then on."""
    trace = (
        "org.apache.kafka.connect.errors.ConnectException: An exception occurred in the change event producer.\n"
        "Caused by: io.debezium.DebeziumException: Failed to properly convert data value for 'public.p2.emb' of type"
        " _float4\n\tat io.debezium.Some.method(Some.java:1)\n"
    )
    peer.config, peer.tasks = {"name": "c"}, [failed(trace)]
    (failure,) = connect.restart_failed("c")
    advice, cause = failure.reason.splitlines()[:2]
    assert advice.index("REPLICA IDENTITY FULL") < advice.index("millrace apply") < advice.index("millrace recover c")
    assert "public.p2.emb" in cause and not failure.retriable


def test_a_stopped_connector_is_resumed(peer: Peer, connect: Connect) -> None:
    connect.apply("c", CONFIG)
    peer.state = "STOPPED"
    assert connect.apply("c", CONFIG) == "updated"
    assert peer.state == "RUNNING"
    assert puts(peer) == 1


def test_offset_and_delete(peer: Peer, connect: Connect) -> None:
    assert connect.offset_lsn("c") is None
    connect.apply("c", CONFIG)
    assert connect.offset_lsn("c") == 7
    assert connect.position("c") == Position(7, None)
    peer.offset = {"lsn": 9, "snapshot": "INITIAL", "snapshot_completed": False}
    assert connect.position("c") == Position(9, "initial")
    peer.offset = {"lsn": 9, "incremental_snapshot_collections": "[]"}
    assert connect.position("c") == Position(9, "incremental")
    assert connect.delete("c") is True
    assert connect.delete("c") is False
