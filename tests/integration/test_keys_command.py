"""`millrace keys` on a real Redis: shown once, listed without its secret, refused once revoked."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from feast import FeatureService, FeatureStore

from millrace.cli import millrace
from millrace.repo import open_repo
from millrace.wiring import access
from serving.access import Unauthorized
from tests.admitted import admit
from tests.redis_server import RedisServer

Command = Callable[..., Result]


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Path]:
    server = RedisServer().start()
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "millrace.yaml").write_text(
        "sources: {nyc: {url: 'postgresql://nowhere/nyc'}}\n"
        "kafka: {bootstrap_servers: 'nowhere:9092'}\nconnect: {url: 'http://nowhere'}\n"
    )
    (folder / "feature_store.yaml").write_text(
        f"project: nyc\nprovider: local\nregistry: {tmp_path}/registry.db\n"
        f"online_store: {{type: redis, connection_string: '{server.connection_string}'}}\n"
        "offline_store: {type: dask}\nentity_key_serialization_version: 3\n"
    )
    FeatureStore(repo_path=str(folder)).apply([FeatureService(name="delays", features=[])])
    yield folder
    server.stop()


@pytest.fixture
def keys(repo: Path) -> Command:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(millrace, ["keys", *arguments, "--repo", str(repo)])

    return run


def as_json(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return value


def test_a_key_is_shown_once_and_opens_until_it_is_revoked(keys: Command, repo: Path, tmp_path: Path) -> None:
    made = as_json(keys("add", "model", "--service", "delays", "--requests-per-second", "5", "--json"))
    assert (made["services"], made["personal"], made["requests_per_second"]) == (["delays"], False, 5.0)
    listed = keys("list")
    assert "model" in listed.output and "delays; 5 requests/s" in listed.output
    assert made["key"][20:] not in listed.output + keys("list", "--json").output
    gate = access(open_repo(repo, tmp_path))
    gate.refresh()
    assert admit(gate, gate.identify(made["key"]), "nyc", "delays", 1).name == "model"
    assert as_json(keys("revoke", "model", "--json")) == {"revoked": "model"}
    gate.refresh()
    with pytest.raises(Unauthorized):
        admit(gate, gate.identify(made["key"]), "nyc", "delays", 1)


def test_mistakes_are_named(keys: Command) -> None:
    as_json(keys("add", "model", "--json"))
    again = keys("add", "model")
    assert again.exit_code == 1 and "there is a key 'model'" in again.output
    unknown = keys("add", "other", "--service", "delay")
    assert unknown.exit_code == 1 and "no feature service 'delay'; there are: delays" in unknown.output
    gone = keys("revoke", "nobody")
    assert gone.exit_code == 1 and "there is no key 'nobody'" in gone.output
    for limit in ("0", "inf", "nan"):
        assert keys("add", "other", "--requests-per-second", limit).exit_code == 2
    assert as_json(keys("list", "--json"))["count"] == 1
