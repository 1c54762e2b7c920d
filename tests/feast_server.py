"""`feast serve` of a test's own, over a Redis of its own."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feast import FeatureStore

from millrace.stack.ports import choose_ports

YAML = """project: nyc
provider: local
registry: {{path: "{folder}/registry.db", cache_ttl_seconds: 1}}
online_store: {{type: redis, connection_string: "{redis}"}}
offline_store: {{type: dask}}
entity_key_serialization_version: 3
"""


def feast_repo(folder: Path, redis: str, objects: Sequence[Any]) -> FeatureStore:
    """A feature repo with those objects applied."""
    (folder / "feature_store.yaml").write_text(YAML.format(folder=folder, redis=redis))
    store = FeatureStore(repo_path=str(folder))
    store.apply(list(objects))
    return store


@contextmanager
def feast_serve(folder: Path) -> Iterator[str]:
    """Runs it until the context ends; its URL."""
    port = choose_ports(("feast",), {})["feast"]
    command = [sys.executable, "-m", "feast.cli.cli", "--chdir", str(folder), "serve", "--port", str(port)]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen([*command, "--no-access-log"], stdout=log, stderr=subprocess.STDOUT)
    try:
        yield _once_up(f"http://127.0.0.1:{port}", process, folder / "serve.log")
    finally:
        process.terminate()
        process.wait(60)


def _once_up(url: str, process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(900):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()
            return url
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"feast serve does not answer: {log.read_text()}")
