"""The plans that a snapshot keeps: those asked for last, within a bound of their number and of their features."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.registry.base_registry import BaseRegistry
from feast.stream_feature_view import stream_feature_view
from feast.types import Int64

from millrace.declare import cdc_source
from serving import snapshot as bounds
from serving.applied import Applied
from serving.frozen import Frozen
from serving.plan import InvalidRequest, NotDeclared
from serving.refresh import Registry
from serving.snapshot import Asked, Snapshot
from tests.unit.local_feast import local_feast


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    config = local_feast(tmp_path)
    return Snapshot(config, applied(config, 8).registry)


def applied(config: RepoConfig, features: int) -> FeatureStore:
    store = FeatureStore(config=config)
    thing = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
    fields = [Field(name="id", dtype=Int64), *(Field(name=f"f{n}", dtype=Int64) for n in range(features))]
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    store.apply([thing, FeatureView(name="things", entities=[thing], schema=fields, source=source)])
    return store


def asked(*numbers: int) -> Asked:
    return Asked(tuple(f"things:f{number}" for number in numbers), None, False)


def test_the_plan_that_was_asked_for_longest_ago_goes(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PLANS", 2)
    first, second = snapshot.plan(asked(0)), snapshot.plan(asked(1))
    assert snapshot.plan(asked(0)) is first
    snapshot.plan(asked(2))
    assert snapshot.plan(asked(0)) is first
    assert snapshot.plan(asked(1)) is not second


def test_the_join_keys_of_a_stream_view_are_no_features(tmp_path: Path) -> None:
    """Feast's registry lists them among its features, which nobody stores."""
    thing = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
    source = cdc_source("shop.public.things")

    @stream_feature_view(
        entities=[thing],
        source=source,
        mode="pandas",
        schema=[Field(name="id", dtype=Int64), Field(name="twice", dtype=Int64)],
        ttl=timedelta(days=1),
    )
    def streamed(frame: pd.DataFrame) -> pd.DataFrame:
        return frame

    config = local_feast(tmp_path)
    store = FeatureStore(config=config)
    store.apply([thing, source, streamed])
    declared = Snapshot(config, store.registry)
    declared.plan(Asked(("streamed:twice",), None, False))
    with pytest.raises(NotDeclared, match="feature view 'streamed' has no feature 'id'; it has: twice"):
        declared.plan(Asked(("streamed:id",), None, False))


def test_a_version_with_more_digits_than_python_reads(snapshot: Snapshot) -> None:
    reference = "things@v" + "9" * 5_000 + ":f0"
    with pytest.raises(InvalidRequest, match="is no feature: write view:feature"):
        snapshot.plan(Asked((reference,), None, False))
    with pytest.raises(InvalidRequest, match="is no feature"):
        snapshot.check([reference])


class Unversioned:
    """As Feast's registries over its own server and over Snowflake: they know of no versions."""

    get_feature_view_by_version = BaseRegistry.get_feature_view_by_version


def test_a_version_of_a_registry_without_versions_is_not_declared_and_hurts_no_other_request(
    snapshot: Snapshot,
) -> None:
    versions: Any = Unversioned()
    message = Applied(snapshot.config).read().cached_registry_proto
    snapshot = Snapshot(snapshot.config, Frozen(snapshot.config, message, versions))
    with pytest.raises(NotDeclared, match="Version 0 of feature view things does not exist"):
        snapshot.plan(Asked(("things@v0:f0",), None, False))
    assert snapshot.plan(asked(0)).references == ("things:f0",)


def test_a_new_snapshot_has_the_plans_in_use_and_those_of_the_services(snapshot: Snapshot) -> None:
    for numbers in ((0,), (1, 2)):
        snapshot.plan(asked(*numbers))
    with pytest.raises(NotDeclared):
        snapshot.plan(asked(9))
    store = FeatureStore(config=snapshot.config)
    store.apply([FeatureService(name="all", features=[store.get_feature_view("things")])])
    taken: list[Snapshot] = []
    renewed = threading.Event()

    def take_next() -> Snapshot:
        if taken:
            renewed.set()
        taken.append(Applied(snapshot.config).take() if taken else snapshot)
        return taken[-1]

    registry = Registry(take_next, 0.01)
    registry.take()
    registry.start()
    try:
        assert renewed.wait(10)
        while registry.current is snapshot:
            renewed.wait(0.01)
    finally:
        registry.close()
    held = registry.current._plans
    assert list(held) == [Asked((), "all", False), asked(0), asked(1, 2)]
    assert registry.current.plan(asked(1, 2)) is held[asked(1, 2)]


def test_a_plan_in_use_of_what_is_no_longer_declared_is_left_out(snapshot: Snapshot) -> None:
    snapshot.plan(asked(0))
    snapshot.plan(asked(7))
    applied(snapshot.config, 7)
    after = Applied(snapshot.config).take()
    after.prepare(snapshot)
    assert list(after._plans) == [asked(0)]


def test_requests_are_answered_while_the_plans_in_use_are_made_anew(snapshot: Snapshot) -> None:
    begun, answered = threading.Event(), threading.Event()

    class Halting(Asked):
        """Where the registry's thread takes its hash, another thread is let in, as may happen at any time."""

        def __hash__(self) -> int:
            if threading.current_thread().name.startswith("registry"):
                begun.set()
                answered.wait(0.2)  # seconds: it cannot come where requests wait for the registry's thread
            return hash(self.features)

    in_use = [Halting((f"things:f{number}",), None, False) for number in range(3)]
    for one in in_use:
        snapshot.plan(one)
    after = Applied(snapshot.config).take()
    with ThreadPoolExecutor(1, thread_name_prefix="registry") as registry:
        prepared = registry.submit(after.prepare, snapshot)
        assert begun.wait(10)
        snapshot.plan(in_use[1])
        answered.set()
        prepared.result()
    assert set(after._plans) == set(in_use)


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
