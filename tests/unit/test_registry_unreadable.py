"""A registry that cannot be read: what commands say of it, and what waits for it."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from feast import Entity, FeatureStore, FeatureView, Field, ValueType
from feast.types import Int64

import millrace.commands.stream
import millrace.status
import millrace.wiring
from connectors.connect import ConnectorState, TaskState
from connectors.health import SlotHealth
from millrace.cli import _is_ours
from millrace.cli import millrace as command_line
from millrace.declare import cdc_source
from millrace.repo import Repo, open_repo, parse, rehearse
from serving.applied import Applied
from stores.memory import MemoryOnline
from stores.memory_lake import MemoryLake
from streams.memory import MemoryBroker, MemoryTopics
from tests.unit.command_repo import command_repo
from tests.unit.local_feast import local_feast

AWAY = "registry: {registry_type: sql, path: 'sqlite:////no/such/folder/registry.sqlite'}"


def away(folder: Path) -> None:
    text = (folder / "feature_store.yaml").read_text()
    (folder / "feature_store.yaml").write_text(text.replace(f"registry: {folder}/registry.db", AWAY))


def cut_off(folder: Path) -> None:
    file = folder / "registry.db"
    file.write_bytes(file.read_bytes()[:21])


def empty(folder: Path) -> None:
    (folder / "registry.db").write_bytes(b"")


def missing(folder: Path) -> None:
    (folder / "registry.db").unlink()


SPOILT: list[tuple[Callable[[Path], None], str]] = [
    (away, "the sql registry cannot be read: OperationalError: "),
    (cut_off, "registry.db is cut off, or no registry of Feast's: put its backup back"),
    (empty, "registry.db has no project 'shop': it is empty"),
    (missing, "registry.db: run millrace apply"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repo of which one captured view is applied, without services."""
    monkeypatch.setattr("serving.applied.SETTLE_SECONDS", 0.001)
    command_repo(tmp_path)
    apply(tmp_path)
    monkeypatch.setattr(millrace.wiring, "topics", lambda repo: MemoryTopics(MemoryBroker({"shop.letters": 1})))
    return tmp_path


def apply(folder: Path) -> None:
    goods = Entity(name="goods", join_keys=["id"], value_type=ValueType.INT64)
    schema = [Field(name="id", dtype=Int64), Field(name="price", dtype=Int64)]
    view = FeatureView(name="prices", entities=[goods], schema=schema, source=cdc_source("shop.public.goods"))
    FeatureStore(repo_path=str(folder)).apply([goods, view])


def invoke(folder: Path, *command: str) -> Result:
    return CliRunner().invoke(command_line, [*command, "--json", "--repo", str(folder), "--stack", str(folder)])


@pytest.mark.parametrize(("spoil", "told"), SPOILT)
@pytest.mark.parametrize("command", [("letters", "list"), ("verify",), ("backfill",), ("resume", "shop.public.goods")])
def test_commands_name_it(folder: Path, spoil: Callable[[Path], None], told: str, command: tuple[str, ...]) -> None:
    (folder / "lake").mkdir()
    spoil(folder)
    result = invoke(folder, *command)
    assert isinstance(result.exception, Exception) and _is_ours(result.exception), repr(result.exception)
    assert told in str(result.exception)


def test_a_feature_service_of_a_key_is_not_looked_for_in_it(folder: Path) -> None:
    cut_off(folder)
    result = invoke(folder, "keys", "add", "delays", "--service", "delay_model")
    assert isinstance(result.exception, Exception) and _is_ours(result.exception), repr(result.exception)


def test_a_registry_that_apply_does_not_write_over_ends_it_before_anything_is_changed(folder: Path) -> None:
    for spoil in (cut_off, away):
        spoil(folder)
        repo = open_repo(folder, folder)
        with pytest.raises(Exception, match=r"is cut off|cannot be read") as caught:
            rehearse(repo, parse(repo))
        assert _is_ours(caught.value), repr(caught.value)


@pytest.mark.parametrize(("spoil", "told"), SPOILT)
def test_status_names_it_and_asks_what_needs_none(
    folder: Path, spoil: Callable[[Path], None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(folder)
    value = status(folder, monkeypatch)
    assert len(value["problems"]) == 1 and told in value["problems"][0]


def test_status_before_the_first_apply_asks_what_needs_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing(folder)
    FeatureStore(repo_path=str(folder)).apply([])
    value = status(folder, monkeypatch)
    assert value["problems"] == ["project shop: no view over a captured table is applied; run millrace apply"]


def status(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `millrace status` tells, with services that answer and are well."""
    running = ConnectorState("shop", "RUNNING", "", (TaskState(0, "RUNNING", "w", ""),))
    connect = SimpleNamespace(state=lambda name: running, offset_lsn=lambda name: None)
    health = SlotHealth(True, 0, 0, "reserved", None, 1, 100, timedelta(0))
    for name, made in {
        "connect": lambda repo, seconds: connect,
        "slot_health": lambda engine, source: health,
        "online": lambda repo, seconds: MemoryOnline(),
        "lake": lambda repo: MemoryLake(),
        "topics": lambda repo: MemoryTopics(MemoryBroker({})),
        "running_workers": lambda folder: {"7": {"waiting_for": "", "paused": {}, "key_changes_lost": {}}},
    }.items():
        monkeypatch.setattr(millrace.status, name, made)
    result = invoke(folder, "status")
    assert result.exit_code == 1, repr(result.exception)
    value: dict[str, Any] = json.loads(result.stdout)
    assert value["connectors"] == {"shop": "RUNNING"} and value["slots"]["shop"]["active"]
    assert value["stores"] == {"online": "answers", "lake": "answers"} and list(value["workers"]) == ["7"]
    return value


@pytest.mark.parametrize("spoilt", [b"", b"\n\xff", None])
def test_a_worker_waits_for_it(folder: Path, spoilt: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feast empties its file before it fills it: a worker may start between."""
    file = folder / "registry.db"
    whole = file.read_bytes()
    waits(folder, lambda: spoil(file, spoilt), lambda: file.write_bytes(whole), monkeypatch)


def spoil(file: Path, content: bytes | None) -> None:
    file.unlink()
    if content is not None:
        file.write_bytes(content)


def test_a_worker_waits_for_a_database_that_has_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, gone = folder / "server", folder / "gone"
    yaml = (folder / "feature_store.yaml").read_text()
    sql = f"registry: {{registry_type: sql, path: 'sqlite:///{server}/registry.sqlite'}}"
    (folder / "feature_store.yaml").write_text(yaml.replace(f"registry: {folder}/registry.db", sql))
    server.mkdir()
    apply(folder)
    waits(folder, lambda: server.rename(gone), lambda: gone.rename(server), monkeypatch)


def waits(
    folder: Path, spoil: Callable[[], object], mend: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts once the registry is spoilt runs, with what is declared, as soon as it is mended."""
    ran, waited = list[object](), list[float]()

    def wait(stop: object, seconds: float) -> None:
        waited.append(seconds)
        mend()

    def flows(repo: Repo) -> dict[str, object]:
        assert [one.view.name for one in repo.declared()] == ["prices"]
        return {}

    member: Any = SimpleNamespace(
        topics=[], paused={}, state=lambda: {"rows": {}}, run=ran.append, tally=SimpleNamespace(stores={})
    )
    monkeypatch.setattr(millrace.commands.stream, "_wait", wait)
    lake = MemoryLake()
    for name, made in (("flows", flows), ("worker", lambda repo, client: member), ("lake", lambda repo: lake)):
        monkeypatch.setattr(millrace.wiring, name, made)
    spoil()
    result = invoke(folder, "run")
    assert result.exit_code == 0, repr(result.exception)
    assert len(ran) == 1 and len(waited) == 1


@pytest.mark.parametrize("password", ["s3cret", "s3@cret"])
def test_the_password_of_its_database_is_not_told(
    tmp_path: Path, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = local_feast(tmp_path)
    config.registry.registry_type = "sql"
    config.registry.path = f"postgresql+psycopg://user:{password}@db:5432/registry"

    def refuse(config: object) -> None:
        raise OSError(f"failed to resolve host '{password.rpartition('@')[2]}@db' for {password}\nand {password}")

    monkeypatch.setattr("serving.applied._opened", refuse)
    with pytest.raises(Exception, match="cannot be read: OSError: failed to resolve host") as caught:
        Applied(config).take()
    assert "cret" not in str(caught.value)
