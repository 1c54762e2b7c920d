"""A worker that starts while its lake or Redis is away: it waits and says so, can be stopped, and goes on by itself."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from millrace.stack.endpoints import Endpoints
from tests.integration.deployed import Running
from tests.integration.shop import Shop, shop
from tests.waiting import waited


@pytest.fixture(scope="module")
def market(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(stack, tmp_path_factory.mktemp("shop"), partitions=1) as made:
        made.repo.apply()
        yield made


@contextmanager
def started(market: Shop, log: Path) -> Iterator[Running]:
    """A worker's process, of which nothing is known but that it was started."""
    with log.open("wb") as output:
        process = subprocess.Popen(market.repo.process("run"), stdout=output, stderr=output)
    try:
        yield Running(process, log, market.repo.stack_folder / "workers" / market.repo.project / str(process.pid))
    finally:
        process.kill()
        process.wait()


def test_a_worker_waits_for_its_lake(market: Shop, tmp_path: Path) -> None:
    lake = Path(os.environ["MILLRACE_LAKE"])
    lake.rename(tmp_path / "away")
    try:
        with started(market, tmp_path / "stopped.log") as worker:
            waited(lambda: "event=waiting" in worker.log.read_text(), "a worker that waits")
            assert str(lake) in worker.log.read_text()
            code = worker.terminate()
            assert code == 0 and "event=stopped" in worker.log.read_text()
            result = json.loads(worker.log.read_text().splitlines()[-1])
            assert str(lake) in result["waiting_for"] and result["rows"] == {"applied": 0, "refused": 0}
        with started(market, tmp_path / "patient.log") as worker:
            waited(lambda: "event=waiting" in worker.log.read_text(), "a worker that waits")
            (tmp_path / "away").rename(lake)
            waited(lambda: worker.health()[1].get("partitions"), "a worker that owns partitions")
            assert "event=going_on" in worker.log.read_text()
            market.settle()
            market.check()
    finally:
        if not lake.exists():
            (tmp_path / "away").rename(lake)


def test_a_worker_waits_for_its_redis_before_it_takes_partitions(market: Shop, tmp_path: Path) -> None:
    market.repo.redis.stop()
    try:
        with started(market, tmp_path / "patient.log") as worker:
            told = waited(lambda: worker.health()[1].get("waiting_for"), "a worker that waits")
            assert told.startswith("Redis is unavailable: ") and worker.health()[1]["partitions"] == []
            market.repo.redis.start()
            waited(lambda: worker.health()[1].get("partitions"), "a worker that owns partitions")
            market.settle()
    finally:
        if market.repo.redis.process is None:
            market.repo.redis.start()
