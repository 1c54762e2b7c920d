"""What operators are told when a part refuses, or the repo is not as it was applied: a problem or an error in one line,
and the rest of the screen."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url, text

from connectors.snapshots import Base, unfinished
from connectors.source import Source, SourceUnavailable, connected
from millrace.repo import open_repo
from millrace.stack.endpoints import Endpoints
from millrace.stack.record import Record
from millrace.wiring import lake, source
from streams.kafka import KafkaTopics
from streams.snapshots import begin_snapshot, end_snapshot, snapshot_base
from tests.integration.shop import SCORES, Shop, shop
from tests.tcp_proxy import TcpProxy


@pytest.fixture(scope="module")
def market(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(stack, tmp_path_factory.mktemp("shop"), partitions=1) as made:
        made.repo.apply()
        yield made


def status(market: Shop) -> dict[str, Any]:
    """Of a repo with something wrong."""
    return market.repo.command("status", code=1)


@pytest.fixture(params=[(401, b'{"message": "Unauthorized"}'), (403, b"<html><h1>No</h1></html>"), (500, b"broken")])
def refusing(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """The address of a Kafka Connect that refuses everything, and its answer's status."""
    code, body = request.param

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", code
    server.shutdown()
    server.server_close()


def test_a_connect_that_refuses_is_a_problem(
    market: Shop, refusing: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, code = refusing
    monkeypatch.setenv("MILLRACE__CONNECT__URL", f"http://ops:s3cret@{place}")
    value = status(market)
    (told,) = [problem for problem in value["problems"] if "Kafka Connect" in problem]
    path = f"/connectors/{market.name}/status"
    assert told.startswith(f"connector {market.name}: Kafka Connect at http://{place} refused GET {path}: {code} ")
    assert "s3cret" not in json.dumps(value) and "<" not in told
    assert value["connectors"] == {market.name: "unknown"}
    assert value["slots"][market.name]["active"] and value["stores"]["online"] == "answers" and value["lag"]


def test_a_source_that_was_renamed_is_a_problem(market: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = market.repo.path / "millrace.yaml"
    before = yaml.read_text()
    monkeypatch.delenv(f"MILLRACE__SOURCES__{market.name.upper()}__URL")
    monkeypatch.setenv("MILLRACE__SOURCES__OTHER__URL", market.database.dsn)
    yaml.write_text(before.replace(f"  {market.name}:", "  other:"))
    told = f"{yaml} has no source {market.name}, which the applied views read: name it again"
    try:
        value = status(market)
        assert [problem for problem in value["problems"] if problem.startswith(told)]
        assert set(value["lag"]) == {f"{market.name}.public.customers", f"{market.name}.public.orders"}
        for command in (["verify"], ["resnapshot", f"{market.name}.public.orders"], ["recover", market.name]):
            assert market.repo.refused(*command).startswith(f"error: {told}")
    finally:
        yaml.write_text(before)


def test_a_source_that_no_view_captures_is_no_problem(market: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE__SOURCES__OTHER__URL", market.database.dsn)
    value = status(market)
    assert set(value["connectors"]) == set(value["slots"]) == {market.name}
    assert not [problem for problem in value["problems"] if "other" in problem], value["problems"]


def test_a_worker_whose_health_port_is_taken_says_so(market: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("MILLRACE__WORKER__HEALTH_PORT", str(port))
        done = subprocess.run(market.repo.process("run"), capture_output=True, text=True, check=False)
    told = f"error: the worker's health cannot listen on 127.0.0.1:{port}: Address already in use."
    assert done.returncode == 1 and f"\n{told}" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "leaked" not in done.stderr, done.stderr


def test_a_stopped_local_stack_hides_no_deployment(market: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = market.repo.stack_folder
    Record(folder).begin({"kafka": 9})
    try:
        value = status(market)
        assert {service["state"] for service in value["services"]} == {"stopped"}
        assert value["connectors"] == {market.name: "RUNNING"} and value["lag"]
        assert "the local stack is stopped: millrace up" not in value["problems"]
        (folder / "env").write_text("export MILLRACE_KAFKA=127.0.0.1:9\n")
        monkeypatch.delenv("MILLRACE_KAFKA")
        assert status(market)["problems"] == ["the local stack is stopped: millrace up"]
    finally:
        for file in ("stack.json", "env"):
            (folder / file).unlink(missing_ok=True)


REFUSALS: dict[str, tuple[str, str]] = {
    "no such table": ("select :value from nowhere", 'relation "nowhere" does not exist; run millrace apply'),
    "no privilege": ("select :value from millrace_refused", "permission denied for table millrace_refused; grant"),
    "a wrong value": ("select cast(:value as int)", "invalid input syntax for type integer: "),
    "cut off": ("select pg_terminate_backend(pg_backend_pid()), :value", "terminating connection due to administrator"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_a_database_refuses_is_told_in_one_line(market: Shop, case: str) -> None:
    statement, words = REFUSALS[case]
    dsn = market.database.dsn
    reader = f"reader_{market.name}"
    market.sql.execute("create table if not exists millrace_refused (id int)")
    market.sql.execute(f"create role {reader} login password 's3cret'")
    try:
        info = psycopg.conninfo.conninfo_to_dict(dsn)
        url = f"postgresql://{reader}:s3cret@{info['host']}:{info['port']}/{info['dbname']}"
        database = Source(name="shop", url=url, slot="s", publication="s")
        engine = database.engine()
        with pytest.raises(SourceUnavailable) as caught, connected(engine, database) as connection:
            connection.execute(text(statement), {"value": "a-value"})
        engine.dispose()
    finally:
        market.sql.execute(f"drop role {reader}")
    said = str(caught.value)
    assert said.startswith(("source shop refuses: ", "source shop is unavailable: ")) and words in said
    assert f"{info['host']}:{info['port']}/{info['dbname']}" in said
    assert "\n" not in said and "select" not in said and "s3cret" not in said


UNREACHED: dict[str, tuple[dict[str, object], str, str]] = {
    "password": ({"password": "wr0ng"}, "password authentication failed", "mend user and password"),
    "user": ({"username": "nobody", "password": "wr0ng"}, "password authentication failed", "mend user and password"),
    "database": ({"database": "nowhere"}, 'database "nowhere" does not exist', "create it, or mend its name"),
    "host": ({"host": "nowhere.invalid"}, "resolve host 'nowhere.invalid'", "mend the host"),
    "port": ({"host": "127.0.0.1", "port": 1}, "refused", "start the server, or mend host and port"),
}


@pytest.mark.parametrize("case", UNREACHED)
def test_a_database_that_cannot_be_reached_is_told_with_what_to_do(market: Shop, case: str) -> None:
    other, words, todo = UNREACHED[case]
    url = make_url(market.database.dsn).set(**other)  # type: ignore[arg-type]  # some of its parts
    database = Source(name="shop", url=url.render_as_string(hide_password=False), slot="s", publication="s")
    engine = database.engine()
    with pytest.raises(SourceUnavailable) as caught, connected(engine, database):
        pass
    engine.dispose()
    said = str(caught.value)
    assert said.startswith("source shop is unavailable: ") and words in said
    assert said.endswith(f"; {todo} in sources.shop.url of millrace.yaml")
    assert "\n" not in said and "wr0ng" not in said and str(make_url(market.database.dsn).password) not in said


def test_a_signal_table_that_is_gone_is_told_with_what_to_do(market: Shop) -> None:
    database = source(open_repo(market.repo.path, market.repo.stack_folder), market.name)
    engine = database.engine()
    market.sql.execute(f"alter table {market.signal_table} rename to away")
    try:
        with pytest.raises(SourceUnavailable, match="does not exist; run millrace apply"):
            unfinished(engine, database)
    finally:
        market.sql.execute(f"alter table public.away rename to {market.slot}_signal")
        engine.dispose()


def test_a_topic_that_kafka_takes_for_another_is_refused_before_anything_is_changed(market: Shop) -> None:
    """As one that something else made."""
    features, contract = market.repo.path / "features.py", market.repo.path / "contracts" / "public.scores.json"
    before = features.read_text()
    topic, other = f"{market.name}.public.scores", f"{market.name}.public_scores"
    KafkaTopics(market.repo.stack.kafka).ensure({other: 1}, {})
    market.sql.execute("create table scores (id bigint primary key, score float8)")
    features.write_text(before + SCORES.format(source=market.name))
    contract.write_text(json.dumps({"name": "public.scores", "expectations": [], "meta": {}}))
    try:
        told = market.repo.refused("apply")
        assert f"topic {topic}: Kafka does not have it beside topic {other}, whose name differs" in told
        published = market.sql.execute("select from pg_publication_tables where tablename = 'scores'").fetchall()
        assert not published
    finally:
        features.write_text(before)
        contract.unlink()
        market.sql.execute("drop table scores")


def test_status_does_not_wait_for_a_database_that_lets_in_and_then_answers_nothing(
    market: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler whose server hangs; also where status asks who reads a table anew."""
    topic = f"{market.name}.public.customers"
    store = lake(open_repo(market.repo.path, market.repo.stack_folder))
    start = Base((snapshot_base(store, topic) or 0) + 8, 1, 1)
    begin_snapshot(store, topic, start)
    url = make_url(market.database.dsn)
    assert url.port is not None
    proxy = TcpProxy(url.port, muted_by=b"pg_catalog.version()").start()
    speak = threading.Timer(150, setattr, [proxy, "muted_by", None])
    speak.start()
    proxied = url.set(port=proxy.port).render_as_string(hide_password=False)
    monkeypatch.setenv(f"MILLRACE__SOURCES__{market.name.upper()}__URL", proxied)
    for seconds in ("status.SECONDS", "made_again.CONNECT_SECONDS", "made_again.LIFE_SECONDS"):
        monkeypatch.setattr(f"millrace.{seconds}", 2)
    try:
        problems = status(market)["problems"]
        assert proxy.muted_by is not None
    finally:
        speak.cancel()
        proxy.stop()
        end_snapshot(store, topic, start.lsn)
    assert [problem for problem in problems if problem.startswith(f"source {market.name} is unavailable: ")], problems
    assert proxy.connections == 4
