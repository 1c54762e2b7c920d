"""A feature repo over a Redis of its own, with a view of every kind that is served, and servers of it."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pandas as pd
from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from millrace.stack.ports import choose_ports
from tests.integration.serving_types import TYPED
from tests.waiting import waited

NOW = datetime.now(UTC).replace(microsecond=0)
DEFINITIONS = Path(__file__).parent / "serving_definitions.py"
YAML = """
project: {project}
provider: local
registry:
  path: {folder}/registry.db
  cache_ttl_seconds: 1
  enable_online_feature_view_versioning: true
online_store:
  type: {kind}
  connection_string: 127.0.0.1:{port}
offline_store:
  type: dask
entity_key_serialization_version: 3
"""
SEARCHED = """
project: {project}
provider: local
registry: {folder}/registry.db
online_store:
  type: stores.feast_online.MillraceOnlineStore
  connection_string: {redis}
  vectors: {vectors}
offline_store: {{type: dask}}
entity_key_serialization_version: 3
"""
"""Of a repo with vectors in PostgreSQL."""
MILLRACE = """
sources: {}
kafka: {bootstrap_servers: nowhere:9}
connect: {url: "http://nowhere:9"}
serve: {store_seconds: 0.4, registry_seconds: 0.5}
"""
ANYBODY = ssl.create_default_context()
"""For the question whether a server is up, whoever signed its certificate."""
ANYBODY.check_hostname, ANYBODY.verify_mode = False, ssl.CERT_NONE


def make_repo(
    folder: Path, port: int, kind: str = "redis", project: str = "served", kafka: str = "nowhere:9"
) -> FeatureStore:
    """Writes the repo, applies it with Feast, and writes its rows with Feast."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(YAML.format(project=project, folder=folder, port=port, kind=kind))
    (folder / "millrace.yaml").write_text(MILLRACE.replace("nowhere:9}", f"{kafka}}}"))
    (folder / "definitions.py").write_text(DEFINITIONS.read_text())
    store = FeatureStore(repo_path=str(folder))
    apply(store)
    write_rows(store)
    return store


def apply(store: FeatureStore) -> None:
    """`feast apply` of all that `serving_definitions` declares; the view `fares` has an earlier version with a row,
    the on-demand view `raised` one with another function."""
    from tests.integration import serving_definitions as declared

    store.apply([declared.origin, declared.fares_of("fare"), declared.raised_before()])
    fares = pd.DataFrame({"origin": ["EWR", "LGA"], "fare": [99.5, 120.0], "event_timestamp": [NOW, NOW]})
    store.write_to_online_store("fares", fares)
    store.apply([value for value in vars(declared).values() if isinstance(value, declared.APPLIED)])


def write_rows(store: FeatureStore) -> None:
    """The rows that the tests ask for."""
    old = NOW - timedelta(hours=2)
    moments = [NOW, NOW - timedelta(minutes=1), old]
    store.write_to_online_store(
        "weather",
        pd.DataFrame(
            {
                "origin": ["EWR", "JFK", "LGA"],
                "temp": [39.25, float("nan"), 41.0],
                "wind": pd.array([7, None, 9], "Int64"),
                "sky": ["clear", None, "rain"],
                "event_timestamp": moments,
            }
        ),
    )
    store.write_to_online_store(
        "airports",
        pd.DataFrame({"origin": ["EWR", "JFK"], "name": ["Newark", "Kennedy"], "event_timestamp": moments[:2]}),
    )
    store.write_to_online_store(
        "routes",
        pd.DataFrame(
            {
                "origin": ["EWR", "JFK"],
                "flight": [1, 2],
                "delay": [1.5, -2.5],
                "event_timestamp": moments[:2],
            }
        ),
    )
    cabins = {"flight": [1, 2], "temp": [21.5, 19.0], "seats": [180, 90], "event_timestamp": moments[:2]}
    store.write_to_online_store("cabins", pd.DataFrame(cabins))
    fares = {"origin": ["EWR", "JFK"], "fare": [101.25, 130.0], "tax": [7.0, 8.5], "event_timestamp": moments[:2]}
    store.write_to_online_store("fares", pd.DataFrame(fares))
    store.write_to_online_store(
        "lines", pd.DataFrame({"carrier": ["UA", "DL"], "planes": [759, 870], "event_timestamp": moments[:2]})
    )
    stars = {"origin": ["EWR", "JFK"], "stars": [2, 4], "labeler": ["ann", None], "event_timestamp": moments[:2]}
    store.write_to_online_store("ratings", pd.DataFrame(stars))
    write_types(store)
    # Where Feast reads a view without entities; what it writes by itself it does not find there.
    key = EntityKey(join_keys=["__dummy_id"], entity_values=[Value(string_val="")])
    row = (key, {"flights": Value(int64_val=336_776)}, NOW, None)
    store._get_provider().online_store.online_write_batch(store.config, store.get_feature_view("totals"), [row], None)


def write_types(store: FeatureStore) -> None:
    """A view with values of every type, as Feast's own messages; item 3 has nulls only."""
    rows = []
    for number, values in enumerate(TYPED):
        key = EntityKey(join_keys=["item"], entity_values=[Value(int32_val=number + 1)])
        rows.append((key, values, NOW, None))
    view = store.get_feature_view("types")
    store._get_provider().online_store.online_write_batch(store.config, view, rows, None)
    key = EntityKey(join_keys=["seen", "item"], entity_values=[Value(unix_timestamp_val=86_400), Value(int32_val=1)])
    view = store.get_feature_view("moments")
    row = (key, {"count": Value(int64_val=5)}, NOW, None)
    store._get_provider().online_store.online_write_batch(store.config, view, [row], None)


def until(so: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Waits until something comes to be, and returns it."""
    return waited(so, "it", seconds)


@dataclass
class Server:
    """A server process on a free port; `output` is where it logs."""

    command: list[str]
    folder: Path
    port: int = field(default_factory=lambda: choose_ports(("serve",), {})["serve"])
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        scheme = "https" if "MILLRACE__SERVE__TLS_CERT" in self.settings else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        return self.folder / f"server-{self.port}.log"

    def start_without_asking(self) -> "subprocess.Popen[bytes]":
        """Only starts it: whoever asks has what it asks for."""
        with self.output.open("ab") as log:
            command = [part.replace("PORT", str(self.port)) for part in self.command]
            environment = os.environ | {"PYTHONUNBUFFERED": "1", **self.settings}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        return self.process

    def start(self) -> "Server":
        process = self.start_without_asking()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.output.read_text()}")
            try:
                urlopen(f"{self.url}/health", timeout=1, context=ANYBODY).close()
                return self
            except (URLError, OSError):
                time.sleep(0.05)
        raise TimeoutError(f"the server does not answer: {self.output.read_text()}")

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and body of one request."""
        status, answer, _ = self.exchange(path, body, headers)
        return status, answer

    def exchange(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of one request."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = Request(self.url + path, data, {"content-type": "application/json", **(headers or {})})
        try:
            with urlopen(request, timeout=10) as response:
                return response.status, _read(response), dict(response.headers)
        except HTTPError as error:
            return error.code, _read(error), {name.lower(): value for name, value in error.headers.items()}

    def features(self, **body: Any) -> tuple[int, Any]:
        """Status and body of `POST /get-online-features`."""
        return self.ask("/get-online-features", body)

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code."""
        assert self.process is not None
        self.process.send_signal(sign)
        return self.process.wait(30)


def _read(response: Any) -> Any:
    text = response.read()
    return json.loads(text) if "json" in (response.headers.get("content-type") or "") else text.decode()


@contextmanager
def millrace(repo: Path, *options: str, at: int = 0, **settings: float | str | Path) -> Iterator[Server]:
    """`millrace serve` of one process, on the port `at` or a free one, with settings of `serve:`."""
    arguments = ["--repo", str(repo), "--stack", str(repo / "no-stack"), "--port", "PORT", *options]
    if "--workers" not in options:
        arguments += ["--workers", "1"]
    server = Server([sys.executable, "-m", "millrace.cli", "serve", *arguments], repo)
    server.port = at or server.port
    server.settings = {f"MILLRACE__SERVE__{name.upper()}": str(value) for name, value in settings.items()}
    with _running(server):
        yield server


def new_key(repo: Path, name: str, *options: str) -> str:
    """The text of a key that `millrace keys add` makes."""
    places = ["--repo", str(repo), "--stack", str(repo / "no-stack"), "--json"]
    command = [sys.executable, "-m", "millrace.cli", "keys", "add", name, *options, *places]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return str(json.loads(made.stdout.splitlines()[-1])["key"])


@contextmanager
def feast(repo: Path) -> Iterator[Server]:
    """`feast serve` of one process."""
    command = [sys.executable, "-m", "feast.cli.cli", "-c", str(repo), "serve", "-p", "PORT", "-w", "1"]
    server = Server(command, repo)
    with _running(server):
        yield server


@contextmanager
def _running(server: Server) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        if server.process is not None and server.process.poll() is None:
            # Not SIGKILL at once: its worker processes would live on.
            server.process.terminate()
            try:
                server.process.wait(30)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
