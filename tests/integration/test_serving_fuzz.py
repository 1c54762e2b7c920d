"""A short, seeded run of `make fuzz-serving`."""

from pathlib import Path

from tests.fuzz.run import Fuzz
from tests.integration.serving_repo import make_repo, millrace
from tests.redis_server import RedisServer

REQUESTS = 600


def test_no_request_makes_the_server_fail_hang_grow_or_tell(tmp_path: Path) -> None:
    store = RedisServer().start()
    try:
        make_repo(tmp_path, store.port)
        with millrace(tmp_path) as server:
            assert server.process is not None
            fuzz = Fuzz(server.url, server.process.pid)
            before = fuzz.memory()
            fuzz.run(server.ask("/openapi.json")[1], 20_260_101, REQUESTS)
            assert fuzz.sent >= REQUESTS
            assert {200, 404, 422} <= fuzz.statuses.keys()
            assert fuzz.memory() - before < 200e6
            assert server.ask("/ready")[0] == 200
    finally:
        store.stop()
