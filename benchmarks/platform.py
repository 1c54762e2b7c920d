"""The platform that the benchmarks load: a local stack of its own, the repo in `benchmarks/repo`, real workers."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psutil
import redis
from sqlalchemy import Engine, create_engine, text

from millrace.repo import Repo, open_repo
from millrace.stack.jars import default_jars
from millrace.stack.stack import Stack
from millrace.wiring import flows, topics

HERE = Path(__file__).parent / "repo"
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement of `results.json`: `goal` is the figure to reach, `beside` what was measured beside it."""

    name: str
    value: float
    unit: str
    goal: str = ""
    beside: Mapping[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The row as plain values, four digits of each figure."""
        beside = {name: float(f"{value:.4g}") for name, value in (self.beside or {}).items()}
        value = float(f"{self.value:.4g}")
        return {"name": self.name, "value": value, "unit": self.unit, "goal": self.goal, "beside": beside}

    def print(self) -> None:
        """The row as one JSON object."""
        print(json.dumps(self.as_dict()), flush=True)


@dataclass(frozen=True, slots=True)
class Platform:
    """A running stack with the source database `load`."""

    folder: Path
    stack: Stack
    engine: Engine
    repo_path: Path = HERE

    @property
    def repo(self) -> Repo:
        """The feature repo opened on this stack."""
        return open_repo(self.repo_path, self.folder)

    def process(self, *arguments: str) -> list[str]:
        """The command line of a millrace command on this platform."""
        places = ["--repo", str(self.repo_path), "--stack", str(self.folder)]
        return [sys.executable, "-m", "millrace.cli", *arguments, *places]

    def command(self, *arguments: str) -> None:
        """Run a command; raises `CalledProcessError`."""
        subprocess.run(self.process(*arguments), check=True, stdout=sys.stderr, stderr=sys.stderr)

    @contextmanager
    def workers(self, count: int = 1) -> Iterator[list["Worker"]]:
        """Workers as processes of their own, each with partitions to read."""
        with ExitStack() as stack:
            members = [self._worker(stack, f"worker-{number}") for number in range(count)]
            wait(lambda: all(member.health().get("partitions") for member in members), "the workers to start")
            yield members

    def _worker(self, stack: ExitStack, name: str) -> "Worker":
        log = stack.enter_context((self.folder / "logs" / f"{name}.log").open("wb"))
        process = subprocess.Popen(self.process("run"), stdout=log, stderr=log)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        return Worker(process, self.repo.workers_folder / str(process.pid))

    def forget(self, name: str) -> None:
        """Begin again over the same topics: an empty Redis, an empty lake, a consumer group that has read nothing."""
        lake = self.folder / f"lake-{name}"
        lake.mkdir()
        os.environ |= {"MILLRACE_LAKE": str(lake), "MILLRACE__KAFKA__GROUP": f"load-{name}"}
        with redis.Redis.from_url(f"redis://{self.stack.endpoints().redis}") as client:
            client.flushall()
        self.command("apply")

    def ends(self) -> tuple[int, int]:
        """Of all topics together: the offsets from which the group has yet to commit, and the end offsets."""
        repo = self.repo
        offsets = topics(repo).committed(repo.group, sorted(flows(repo))).values()
        return sum(c for c, _ in offsets), sum(end for _, end in offsets)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's process and where it notes its address."""

    process: subprocess.Popen[bytes]
    note: Path

    def health(self) -> dict[str, Any]:
        """What it says of itself; empty before it listens."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the worker ended with exit code {self.process.returncode}; its log says why")
        try:
            with urlopen(self.note.read_text(), timeout=5) as answer:
                state: dict[str, Any] = json.load(answer)
        except HTTPError as waiting:
            state = json.load(waiting)
        except (FileNotFoundError, ValueError, URLError, TimeoutError):
            return {}
        return state

    def committed(self) -> int:
        """The sum of the offsets it has committed."""
        return sum(self.health().get("committed", {}).values())

    def memory_mb(self) -> float:
        """Its resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    def cpu_seconds(self) -> float:
        """Processor time it has used."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def platform(partitions: int = 1) -> Iterator[Platform]:
    """A stack in a temporary folder, stopped and removed afterwards; the environment, in which opening its repo notes
    its addresses, is then what it was before."""
    environment = dict(os.environ)
    os.environ["BENCH_PARTITIONS"] = str(partitions)
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        stack = Stack(folder, default_jars(), None)
        try:
            endpoints = stack.up(lambda line: print(line, file=sys.stderr))
            server = create_engine(f"{endpoints.postgres}/postgres", isolation_level="AUTOCOMMIT")
            with server.connect() as connection:
                connection.execute(text("CREATE DATABASE load"))
            server.dispose()
            engine = create_engine(f"{endpoints.postgres}/load")
            with engine.begin() as connection:
                connection.execute(text((HERE / "schema.sql").read_text()))
            yield Platform(folder, stack, engine)
            engine.dispose()
        finally:
            stack.down(lambda line: None)
            os.environ.clear()
            os.environ.update(environment)


def wait(what: Callable[[], bool], why: str, seconds: float = 0.05) -> None:
    """Wait until it is so; raises `TimeoutError`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_SECONDS:g} s for {why}")
        time.sleep(seconds)
