"""Online features in process: what `millrace serve` would answer, from the same repo."""

from pathlib import Path
from typing import Any

import pytest

from millrace.repo import open_repo
from millrace.wiring import in_process
from serving.plan import InvalidRequest, NotDeclared
from tests.integration.serving_repo import make_repo
from tests.redis_server import RedisServer


def test_in_process(tmp_path: Path) -> None:
    redis = RedisServer().start()
    try:
        make_repo(tmp_path, redis.port)
        lookup = in_process(open_repo(tmp_path, tmp_path / "no-stack"))
        found = lookup.get({"origin": ["EWR", "LGA", "X"]}, ["weather:temp", "airports:name"])
        assert found.values == {"temp": [39.25, None, None], "name": ["Newark", None, None]}
        assert found.statuses["temp"] == ["PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND"]
        assert found.event_times["name"][1:] == [None, None]
        felt = lookup.get({"origin": ["EWR"], "offset": [1.5]}, feature_service="felt")
        assert felt.values == {"temp": [39.25], "felt": [40.75], "felt_twice": [80.0]}
        trip: dict[str, list[Any]] = {"origin": ["EWR"], "flight": [1]}
        for asked in (["weather:temp", "cabin_kelvin:kelvin"], ["cabin_kelvin:kelvin", "weather:temp"]):
            assert lookup.get(trip, asked).values == {"temp": [39.25], "kelvin": [294.5]}
        with pytest.raises(NotDeclared, match="no feature 'tmp'"):
            lookup.get({"origin": ["EWR"]}, ["weather:tmp"])
        with pytest.raises(InvalidRequest, match="of one length"):
            lookup.get({"origin": ["EWR"], "flight": []}, ["weather:temp"])
    finally:
        redis.stop()
