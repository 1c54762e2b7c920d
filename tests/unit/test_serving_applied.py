"""The registry where `feast apply` left it: what is not whole is not served, and to read it writes nothing."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.registry.registry import Registry as FeastRegistry
from feast.infra.registry.sql import SqlRegistry
from feast.types import Int64, PrimitiveFeastType, String

from serving.applied import Applied, check
from serving.refresh import Registry
from serving.snapshot import Asked, Snapshot
from stores.errors import RegistryUnreadable, StoreUnavailable
from tests.unit.local_feast import local_feast

THINGS, OTHERS = Asked(("things:value",), None, False), Asked(("others:value",), None, False)


def apply(config: RepoConfig, kind: PrimitiveFeastType = Int64) -> None:
    """Two views, of values of that type."""
    thing = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    fields = [Field(name="id", dtype=Int64), Field(name="value", dtype=kind)]
    views = [FeatureView(name=name, entities=[thing], schema=fields, source=source) for name in ("things", "others")]
    FeatureStore(config=config).apply([thing, *views])


def value_type(snapshot: Snapshot, asked: Asked = THINGS) -> int:
    (feature,) = snapshot.plan(asked).plan.features
    return feature.value_type


@pytest.fixture
def config(tmp_path: Path) -> RepoConfig:
    config = local_feast(tmp_path)
    apply(config)
    return config


@pytest.fixture
def file(config: RepoConfig) -> Path:
    return Path(config.registry.path)


def sql(folder: Path) -> RepoConfig:
    return RepoConfig(
        project="shop",
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{folder}/registry.sqlite"},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store={"type": "dask"},
        entity_key_serialization_version=3,
    )


def test_what_is_applied_is_taken_and_only_once(config: RepoConfig) -> None:
    applied = Applied(config)
    before = applied.take()
    assert value_type(before) == ValueType.INT64.value
    assert applied.take() is before
    apply(config, String)
    assert value_type(applied.take()) == ValueType.STRING.value
    assert value_type(before, OTHERS) == ValueType.INT64.value


def test_no_part_of_a_registry_is_taken_for_the_whole(
    config: RepoConfig, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.applied.SETTLE_SECONDS", 0)
    monkeypatch.setattr("serving.applied.READS", 2)
    whole, applied = file.read_bytes(), Applied(config)
    views = set(applied.take().views)
    refused = 0
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        try:
            assert set(applied.take().views) == views
        except RegistryUnreadable as error:
            assert str(file) in str(error)
            refused += 1
    assert refused >= len(whole) - 1  # but for the end of all that is declared, before the old versions of views


def test_a_registry_that_is_gone_is_not_made(config: RepoConfig, file: Path) -> None:
    file.unlink()
    for _ in range(2):
        with pytest.raises(RegistryUnreadable, match=f"there is no registry at {file}: run millrace apply"):
            Applied(config).take()
    assert not file.exists()


def test_a_registry_of_another_project_is_named(config: RepoConfig, file: Path) -> None:
    config.project = "other"
    with pytest.raises(RegistryUnreadable, match=rf"{file} has no project 'other'.*millrace apply"):
        Applied(config).take()


def test_a_registry_in_the_midst_of_its_writing_is_read_again(
    config: RepoConfig, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What holds the project may lack the rest: only what stays as it is for a moment is taken."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            file.write_bytes(b"")
        if len(slept) == 2:
            apply(config, String)

    monkeypatch.setattr("serving.applied.sleep", sleep)
    assert value_type(Applied(config).take()) == ValueType.STRING.value
    assert len(slept) == 3


def test_a_registry_that_never_rests_is_not_taken(config: RepoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.applied.sleep", lambda seconds: apply(config))
    with pytest.raises(RegistryUnreadable, match="another each time"):
        Applied(config).take()


def test_a_relative_path_is_of_the_repo(config: RepoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.repo_path = tmp_path
    config.registry.path = "registry.db"
    assert set(Applied(config).take().views) == {"things", "others"}


@pytest.mark.parametrize("spoil", [lambda file: file.write_bytes(b""), lambda file: file.unlink()])
def test_the_last_registry_serves_until_there_is_a_whole_one_again(
    config: RepoConfig,
    file: Path,
    spoil: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.applied.SETTLE_SECONDS", 0.001)
    looks = threading.Semaphore(0)
    applied = Applied(config)

    def take() -> Snapshot:
        looks.release()
        return applied.take()

    registry = Registry(take, 0.01)
    registry.take()
    whole = registry.current
    registry.start()
    try:
        with caplog.at_level(logging.INFO):
            spoil(file)
            for _ in range(20):
                assert looks.acquire(timeout=10)
            assert registry.current is whole
            apply(config, String)
            while registry.current is whole or not registry.current.views:  # Feast writes an empty project first
                assert looks.acquire(timeout=10)
    finally:
        registry.close()
    assert value_type(registry.current) == ValueType.STRING.value
    unreadable, *served = [record.event for record in caplog.records if record.name == "millrace"]  # type: ignore[attr-defined]
    assert unreadable == "registry_unreadable" and set(served) == {"registry_applied"}


def test_nothing_is_written_where_files_are_read(config: RepoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FeastRegistry) -> None:
        raise AssertionError("the registry was written")

    monkeypatch.setattr(FeastRegistry, "commit", refuse)
    Applied(config).take().prepare()


def test_a_request_on_the_old_registry_leaves_no_view_to_the_new_one(
    config: RepoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied = Applied(config)
    before = applied.take()
    apply(config, String)
    after = applied.take()
    made = FeatureView.from_proto

    def make(proto: object, **how: object) -> FeatureView:
        """Where the old view is made for a request, the registry's thread makes a plan of the new one."""
        monkeypatch.setattr(FeatureView, "from_proto", made)
        assert value_type(after, OTHERS) == ValueType.STRING.value
        return made(proto, **how)

    monkeypatch.setattr(FeatureView, "from_proto", make)
    assert value_type(before) == ValueType.INT64.value
    assert FeatureView.from_proto == made
    assert value_type(after) == ValueType.STRING.value


def test_a_sql_registry_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = sql(tmp_path)
    apply(config)
    opened: list[None] = []
    make = SqlRegistry.__init__

    def count(self: SqlRegistry, *how: object) -> None:
        opened.append(None)
        make(self, *how)

    monkeypatch.setattr(SqlRegistry, "__init__", count)
    applied = Applied(config)
    before = applied.take()
    assert applied.take() is before
    monkeypatch.setattr(SqlRegistry, "__init__", make)
    apply(sql(tmp_path), String)
    assert value_type(applied.take()) == ValueType.STRING.value
    assert value_type(before) == ValueType.INT64.value
    assert len(opened) == 1


def test_a_sql_registry_without_the_project_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnreadable, match="sql registry has no project 'shop'"):
        Applied(sql(tmp_path)).take()


def test_a_process_that_begins_while_the_registry_is_away_waits_for_it(
    config: RepoConfig, file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.applied.SETTLE_SECONDS", 0.001)
    whole = file.read_bytes()
    file.unlink()
    looked, applied = threading.Semaphore(0), Applied(config)

    def take() -> Snapshot:
        looked.release()
        return applied.take()

    registry = Registry(take, 0.01)
    with caplog.at_level(logging.INFO):
        registry.look()
        with pytest.raises(StoreUnavailable, match="the registry"):
            _ = registry.current
        registry.start()
        try:
            for _ in range(3):
                assert looked.acquire(timeout=10)
            file.write_bytes(whole)
            while not registry.taken:
                assert looked.acquire(timeout=10)
        finally:
            registry.close()
    assert value_type(registry.current) == ValueType.INT64.value
    events = [record.event for record in caplog.records if record.name == "millrace"]  # type: ignore[attr-defined]
    assert events == ["registry_unreadable", "registry_applied"]


def test_what_a_server_begins_with_is_checked_apart(config: RepoConfig, file: Path, tmp_path: Path) -> None:
    check(config)
    file.unlink()
    with pytest.raises(RegistryUnreadable, match=f"there is no registry at {file}: run millrace apply"):
        check(config)


def test_a_sql_registry_that_nothing_was_applied_to_is_named_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnreadable, match="sql registry has no project 'shop'"):
        check(sql(tmp_path))
    apply(sql(tmp_path))
    check(sql(tmp_path))


def test_a_sql_registry_that_is_away_is_named_before_the_start(tmp_path: Path) -> None:
    config = sql(tmp_path / "no-such-folder")
    said = r"the sql registry cannot be read: OperationalError: .*unable to open"
    with pytest.raises(RegistryUnreadable, match=said):
        check(config)


def test_a_registry_that_hangs_is_not_waited_for_for_ever(config: RepoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.applied.CHECK_SECONDS", 0.2)
    monkeypatch.setattr(Applied, "take", lambda self: threading.Event().wait())
    with pytest.raises(RegistryUnreadable, match=r"did not answer within 0\.2 s"):
        check(config)
