"""`millrace serve` before it serves: what it refuses, and what it does not wait for."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from feast import FeatureStore

import serving.server
from millrace.cli import millrace as command_line
from millrace.repo import open_repo
from millrace.settings import SettingsError
from millrace.wiring import online, reads
from stores.errors import RegistryUnreadable
from tests.unit.command_repo import command_repo


def redis_repo(folder: Path, *, kind: str = "redis", port: int = 9, registry: str = "registry.db") -> Path:
    """A repo over a Redis at that port, with nothing applied but the project."""
    command_repo(folder)
    text = (folder / "feature_store.yaml").read_text()
    store = f"online_store: {{type: redis, redis_type: {kind}, connection_string: '127.0.0.1:{port}'}}\n"
    lines = [store if line.startswith("online_store") else line for line in text.splitlines(keepends=True)]
    (folder / "feature_store.yaml").write_text("".join(lines))
    FeatureStore(repo_path=str(folder)).apply([])
    text = (folder / "feature_store.yaml").read_text().replace(f"{folder}/registry.db", registry)
    (folder / "feature_store.yaml").write_text(text)
    return folder


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[Result, int]:
    """What came of it, and how often it got as far as to serve."""
    served: list[object] = []
    monkeypatch.setattr(serving.server, "serve", lambda *given: served.append(given))
    arguments = ["serve", "--port", "0", "--repo", str(folder), "--stack", str(folder), *options]
    return CliRunner().invoke(command_line, arguments), len(served)


def test_sentinels_are_no_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They answer to PING, so that all would seem well, and know no HMGET."""
    repo = open_repo(redis_repo(tmp_path, kind="redis_sentinel"), tmp_path)
    for build in (reads, online):
        with pytest.raises(SettingsError, match=r"redis_type is redis_sentinel; .*write"):
            build(repo)
    result, served = run(tmp_path, monkeypatch)
    assert isinstance(result.exception, SettingsError) and not served


def test_a_redis_that_is_away_keeps_no_server_with_keys_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would end, be started again, and wait longer each time; and be missing once Redis is back."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        repo = redis_repo(tmp_path, port=nobody.getsockname()[1])
        result, served = run(repo, monkeypatch, "--with-keys")
    assert (result.exit_code, served) == (0, 1), result.output
    assert "nobody is let in until the API keys can be read: Redis is unavailable" in caplog.text


def test_a_registry_in_a_database_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = redis_repo(tmp_path)
    text = (repo / "feature_store.yaml").read_text()
    away = "registry: {registry_type: sql, path: 'sqlite:////no/such/folder/registry.sqlite'}"
    (repo / "feature_store.yaml").write_text(text.replace("registry: registry.db", away))
    result, served = run(repo, monkeypatch)
    assert isinstance(result.exception, RegistryUnreadable) and not served
    assert str(result.exception).startswith("the sql registry cannot be read: OperationalError")
