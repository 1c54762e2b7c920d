"""The plans that a snapshot keeps: those asked for last, within a bound of their number and of their features."""

from pathlib import Path

import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Int64

from serving import snapshot as bounds
from serving.snapshot import Asked, Snapshot


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    config = RepoConfig(
        project="shop",
        provider="local",
        registry={"path": str(tmp_path / "registry.db")},
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        offline_store={"type": "dask"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    thing = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
    fields = [Field(name="id", dtype=Int64), *(Field(name=f"f{n}", dtype=Int64) for n in range(8))]
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    store.apply([thing, FeatureView(name="things", entities=[thing], schema=fields, source=source)])
    return Snapshot(config, store.registry)


def asked(*numbers: int) -> Asked:
    return Asked(tuple(f"things:f{number}" for number in numbers), None, False)


def test_the_plan_that_was_asked_for_longest_ago_goes(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PLANS", 2)
    first, second = snapshot.plan(asked(0)), snapshot.plan(asked(1))
    assert snapshot.plan(asked(0)) is first
    snapshot.plan(asked(2))
    assert snapshot.plan(asked(0)) is first
    assert snapshot.plan(asked(1)) is not second


def test_wide_plans_leave_room_for_fewer(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "WIDTH", 8)
    wide = snapshot.plan(asked(0, 1, 2, 3, 4))
    narrow = snapshot.plan(asked(5, 6, 7))
    assert snapshot.plan(asked(0, 1, 2, 3, 4)) is wide
    snapshot.plan(asked(0))
    assert snapshot.plan(asked(0, 1, 2, 3, 4)) is wide
    assert snapshot.plan(asked(5, 6, 7)) is not narrow
    whole = snapshot.plan(asked(*range(8)))
    assert snapshot.plan(asked(*range(8))) is whole
