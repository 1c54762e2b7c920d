"""Reading features: `millrace serve` beside `feast serve` over one Redis, and in process beside a raw HMGET.

Requests a second by wrk (https://github.com/wg/wrk), which must be installed; latency at a fixed rate by
`benchmarks.fixed_rate`, quiet and while 24 writers update features. Each server is one process; load, server and Redis
share the machine's cores. What is compared is measured in turns, and each figure is the median of three; a tail at a
fixed rate that of nine.
"""

import gc
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import numpy as np

from benchmarks.fixed_rate import measure, middle
from benchmarks.platform import Row, wait
from benchmarks.serving_repo import ENTITIES, SIZES, features, make_repo
from benchmarks.writers import live_writers
from millrace.repo import open_repo
from millrace.stack.ports import choose_ports
from millrace.wiring import access_keys, in_process, online
from serving.keys import make_key
from serving.lookup import OnlineLookup
from serving.snapshot import Asked
from tests.redis_server import RedisServer

SECONDS = 5.0
TURNS = 3
"""Each figure is the median of so many: a single stall of the machine would be the tail of one."""
STRETCHES = 9
"""Of a tail at a fixed rate: the machine stalls in about one stretch of five, and two of three would be the figure."""
CONNECTIONS = 16
WORK = {
    "10 x 30": (10, features("driver_hourly")),
    "1 x 30": (1, features("driver_hourly")),
    "100 x 50": (100, features(*SIZES)),
}
"""Entities and features of one request; the last over three views."""

MILLRACE_SERVE = [sys.executable, "-m", "millrace.cli", "serve", "--port", "PORT"]
LIVE_RATE = 100.0
"""Requests a second while writers work."""

LUA = """
local bodies = {%s}
local i = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  i = i %% #bodies + 1
  return wrk.format(nil, "/get-online-features", nil, bodies[i])
end
"""


def rows() -> Iterable[Row]:
    """All measurements, in turn."""
    redis, folder = RedisServer().start(), tempfile.TemporaryDirectory(prefix="millrace-bench-")
    try:
        repo = Path(folder.name) / "repo"
        make_repo(repo, redis.port)
        yield from _over_http(repo, redis.port)
        yield from _in_process(repo)
    finally:
        redis.stop()
        folder.cleanup()


def _over_http(repo: Path, redis_port: int) -> Iterator[Row]:
    with server(_feast(repo)) as their_port, server(_millrace(repo)) as port:
        paces = {name: _in_turns(partial(_wrk, repo, (their_port, port), name)) for name in WORK}
    goals = {"10 x 30": "25 times feast serve", "1 x 30": "", "100 x 50": ""}
    for name, (theirs, ours) in paces.items():
        beside = {"feast serve": theirs, "times": ours / theirs}
        yield Row(f"serve {name}, requests/s of one process", ours, "requests/s", goals[name], beside)
    key = _key(repo)
    with server(_millrace(repo)) as port, server([*_millrace(repo), "--with-keys"]) as keyed_port:
        without, keyed = _in_turns(partial(_wrk, repo, (port, keyed_port), "1 x 30", key))
    beside = {"without keys": without}
    yield Row("serve 1 x 30, keys and limits on, requests/s of one process", keyed, "requests/s", "8000", beside)
    with server(_millrace(repo)) as port:
        yield from _latencies(port, redis_port, {name: ours for name, (_, ours) in paces.items()})


def _latencies(port: int, redis_port: int, paces: Mapping[str, float]) -> Iterator[Row]:
    for name, rate, limit in (
        ("10 x 30", paces["10 x 30"] / 2, "< 5"),
        ("1 x 30", paces["1 x 30"] / 2, ""),
        ("100 x 50", LIVE_RATE, "< 20"),
    ):
        stretches = [measure(port, _bodies(name), rate, SECONDS) for _ in range(STRETCHES)]
        found, tails = middle(stretches), [stretch.p99 for stretch in stretches]
        beside = {"p50": found.p50, "least p99": min(tails), "most p99": max(tails)}
        beside |= {"requests/s": found.rate, "failed": float(found.failed)}
        yield Row(f"serve {name} at a fixed rate, p99", found.p99, "ms", limit, beside)
    turns = []
    for _ in range(TURNS):
        alone = measure(port, _bodies("10 x 30"), LIVE_RATE, SECONDS)
        with live_writers(redis_port):
            turns.append((alone, measure(port, _bodies("10 x 30"), LIVE_RATE, SECONDS)))
    quiet, live = middle([alone for alone, _ in turns]), middle([beside for _, beside in turns])
    beside = {"quiet p99": quiet.p99, "times": live.p99 / quiet.p99, "quiet p50": quiet.p50, "p50": live.p50}
    yield Row("serve 10 x 30 beside 24 writers, p99", live.p99, "ms", "< 2 times quiet", beside)


def _in_turns(pace: Callable[[], Sequence[float]]) -> list[float]:
    """The median pace of each server, asked in turns: what the machine's pace does meanwhile, it does to all."""
    return [median(paces) for paces in zip(*(pace() for _ in range(TURNS)), strict=True)]


def _bodies(name: str) -> list[bytes]:
    count, wanted = WORK[name]
    rng = random.Random(1)
    return [
        json.dumps(
            {
                "features": wanted,
                "entities": {"driver_id": [rng.randrange(ENTITIES) for _ in range(count)]},
                "full_feature_names": True,
            }
        ).encode()
        for _ in range(100)
    ]


def _wrk(folder: Path, ports: Sequence[int], name: str, key: str = "") -> list[float]:
    """Requests a second of each server, none refused."""
    script = folder / "requests.lua"
    header = f'wrk.headers["Authorization"] = "Bearer {key}"\n' if key else ""
    script.write_text(header + LUA % ",".join(f"[==[{body.decode()}]==]" for body in _bodies(name)))
    return [_pace(script, port) for port in ports]


def _pace(script: Path, port: int) -> float:
    options = [f"-c{CONNECTIONS}", "-t1", "--timeout", "10s", "-s", str(script), f"http://127.0.0.1:{port}/"]
    command = ["wrk", f"-d{SECONDS:g}s", *options]
    subprocess.run(["wrk", "-d2s", *options], check=True, capture_output=True)  # to warm up
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(f"not all requests were answered:\n{told}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert found is not None
    return float(found.group(1))


def _feast(repo: Path) -> list[str]:
    # Without the limit after which it ends its process and starts another, which takes seconds.
    options = ["-p", "PORT", "-w", "1", "--max-requests", "0"]
    return [sys.executable, "-m", "feast.cli.cli", "-c", str(repo), "serve", *options]


def _millrace(repo: Path) -> list[str]:
    return [*MILLRACE_SERVE, "--repo", str(repo), "--stack", str(repo / "none"), "--workers", "1"]


def _key(repo: Path) -> str:
    """A new API key with limits that are not reached."""
    made = make_key("model", requests_per_second=1e6, entities_per_second=1e7)
    access_keys(open_repo(repo, repo / "none")).add(made.stored)
    return made.text


@contextmanager
def server(command: list[str]) -> Iterator[int]:
    """Runs a server, on a free port instead of `PORT`, which is yielded."""
    port = choose_ports(("serve",), {})["serve"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([part.replace("PORT", str(port)) for part in command], stdout=log, stderr=log)
        try:
            wait(lambda: _lives(port), "the server to answer")
            yield port
        finally:
            process.terminate()
            process.wait(30)


def _lives(port: int) -> bool:
    try:
        urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
    except OSError:
        return False
    return True


def _in_process(repo: Path) -> Iterator[Row]:
    opened = open_repo(repo, repo / "none")
    lookup, store = in_process(opened), online(opened)
    gc.collect()
    gc.freeze()
    wanted, rng = features("driver_hourly"), random.Random(2)
    for count, goal in ((1, "p50 < 0.15, p99 < 0.5"), (100, "< 2 times a raw HMGET")):
        drawn = [{"driver_id": [rng.randrange(ENTITIES) for _ in range(count)]} for _ in range(1_000)]
        packed = [_commands(lookup, wanted, entities) for entities in drawn]
        ours = _timed([partial(lookup.get, entities, wanted) for entities in drawn])
        raw = _timed([partial(store.ask, commands) for commands in packed])
        beside = {"p99": ours["p99"], "raw p50": raw["p50"], "raw p99": raw["p99"], "times": ours["p50"] / raw["p50"]}
        yield Row(f"in process {count} x 30, decoded, p50", ours["p50"], "ms", goal, beside)
    gc.unfreeze()  # what native modules hold must be freed by the collector before they are unloaded


def _commands(lookup: OnlineLookup, wanted: list[str], entities: Mapping[str, Any]) -> list[bytes]:
    plan = lookup.registry.current.plan(Asked(tuple(wanted), None, False)).plan
    return plan.commands(plan.hashes(entities))


def _timed(calls: list[Callable[[], object]]) -> dict[str, float]:
    """p50 and p99 in milliseconds, each call once, after a tenth of them to warm up."""
    for call in calls[: len(calls) // 10]:
        call()
    taken = []
    for call in calls:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    half, most = np.percentile(np.array(taken) * 1000, [50, 99])
    return {"p50": float(half), "p99": float(most)}


def main() -> None:
    """Measure and print."""
    for row in rows():
        row.print()


if __name__ == "__main__":
    main()
