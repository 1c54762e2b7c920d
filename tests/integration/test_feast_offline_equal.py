"""Point-in-time answers of the lake equal those of Feast's own file store, where no row was ever deleted.

Both stores hold the same generated rows, with late and equal event times, nulls, and views with and without a
time to live; what is compared is what the stock SDK returns.
"""

import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import Float64, String
from feast.types import Int64 as FeastInt64
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stores.delta import DeltaLake
from stores.feast_lake import LakeSource
from stores.history import feature_properties
from stores.rows import rows_schema
from stores.view import Feature, View
from tests.integration.lake_repo import at

VIEWS = {"ageless": 0, "aging": 5, "facts": 0}
FEATURES = (Feature("n", 4, pa.int64()), Feature("x", 5, pa.float64()), Feature("s", 2, pa.string()))


def view_of(name: str) -> View:
    return View("p", name, name, "state" if name == "facts" else "event", (Feature("k", 4, pa.int64()),), FEATURES)


Tables = dict[str, list[dict[str, Any]]]
"""By view, its rows."""


class Stores:
    """The same declarations over the lake and over Feast's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lake = {"type": "stores.feast_offline.LakeOfflineStore", "path": str(folder / "lake")}
        self.lake = self._store("lake", lake, lambda name: LakeSource(name=name, table=f"features/{name}", **TIMES))
        self.files = self._store(
            "files", {"type": "file"}, lambda name: FileSource(name=name, path=self._file(name), **TIMES)
        )

    def _file(self, name: str) -> str:
        return str(self.folder / f"{name}.parquet")

    def _store(self, name: str, offline: dict[str, str], source: Any) -> FeatureStore:
        (self.folder / name).mkdir()
        config = RepoConfig(
            project="p",
            provider="local",
            registry=str(self.folder / name / "registry.db"),
            online_store={"type": "sqlite", "path": str(self.folder / name / "online.db")},
            offline_store=offline,
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        entity = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
        schema = [Field(name="k", dtype=FeastInt64), Field(name="n", dtype=FeastInt64)]
        schema += [Field(name="x", dtype=Float64), Field(name="s", dtype=String)]
        views = [
            FeatureView(name=v, entities=[entity], schema=schema, source=source(v), ttl=timedelta(hours=ttl))
            for v, ttl in VIEWS.items()
        ]
        other = views[1].with_name("other").with_join_key_map({"k": "other_k"})
        self.fill({}) if name == "files" else None
        store.apply([entity, *views, FeatureService(name="both", features=[views[0], other])])
        return store

    def fill(self, tables: Tables) -> None:
        """Give both stores the rows, and no others."""
        lake = DeltaLake(str(self.folder / "lake"))
        shutil.rmtree(self.folder / "lake" / "features", ignore_errors=True)
        for name in VIEWS:
            view = view_of(name)
            rows = pa.Table.from_pylist(tables.get(name, []), rows_schema(view))
            lake.create(f"features/{name}", rows_schema(view), feature_properties(view, "t"))
            lake.append(f"features/{name}", rows, {})
            pq.write_table(rows, self._file(name))


TIMES: dict[str, Any] = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return Stores(tmp_path_factory.mktemp("equal"))


@st.composite
def tables(draw: st.DrawFn) -> Tables:
    """Rows of every view in commit order; a state view's event times do not go back."""
    filled = {}
    for name in VIEWS:
        rows: list[dict[str, Any]] = []
        commit = 0
        for i in range(draw(st.integers(1, 8))):
            commit += draw(st.integers(1, 90))
            event = draw(st.integers(0, 12))
            if name == "facts":
                event = max([event, *(row["event"] for row in rows)])
            values = draw(
                st.tuples(st.none() | st.integers(-5, 5), st.none() | st.floats(-1, 1), st.none() | st.text("ab"))
            )
            rows.append(
                {"event": event, "k": draw(st.integers(0, 2)), "_lsn": i, **dict(zip("nxs", values, strict=True))}
            )
            rows[-1] |= {"event_timestamp": at(event), "created_timestamp": at(commit / 60), "_deleted": False}
            rows[-1] |= {"_partition": 0, "_offset": i, "_row": None if name == "facts" else bytes([i] * 16)}
        filled[name] = rows
    return filled


spines = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 60)), min_size=1, max_size=8, unique_by=lambda t: t
)
# Feast's file store takes a second for each answer: few examples, and a failing one is not shrunk.
few = settings(max_examples=6, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))


@few
@given(tables(), spines, st.booleans(), st.booleans())
def test_entity_frames(
    stores: Stores, rows: Tables, spine: list[tuple[int, int, int]], known: bool, full: bool
) -> None:
    stores.fill(rows)
    frame = pd.DataFrame(
        [
            {"k": k, "other_k": o, "event_timestamp": at(quarter / 4), "label": i}
            for i, (k, o, quarter) in enumerate(spine)
        ]
    )
    frame = frame.drop_duplicates(["k", "other_k", "event_timestamp"])
    one_view = frame.drop(columns="other_k").drop_duplicates(["k", "event_timestamp"])
    references = [f"{view}:{feature}" for view, feature in (("ageless", "n"), ("aging", "x"), ("facts", "s"))]
    for entities, asked, names in (
        (one_view, references, full),
        (frame, None, True),
    ):
        answers = [
            store.get_historical_features(
                entities,
                asked or store.get_feature_service("both"),
                full_feature_names=names,
                filter_by_created_timestamp=known,
            ).to_df()
            for store in (stores.lake, stores.files)
        ]
        ours, theirs = answers
        assert set(ours.columns) == set(theirs.columns)
        assert ours["label"].tolist() == entities["label"].tolist()
        # Feast's file store loses an entity row for which a view has rows, but none that counts at its time.
        lost = ~ours["label"].isin(theirs["label"])
        assert plain(ours[~lost]) == plain(theirs)
        features = ours[lost].drop(columns=list(entities.columns))
        assert features.isna().any(axis=1).all()


@few
@given(tables(), st.sampled_from(["ageless", "aging"]), st.integers(0, 15), st.booleans())
def test_all_entities_at_an_end(stores: Stores, rows: Tables, view: str, end: int, known: bool) -> None:
    stores.fill(rows)
    answers = [
        store.get_historical_features(
            None, [f"{view}:n", f"{view}:s"], start_date=at(-9), end_date=at(end), filter_by_created_timestamp=known
        ).to_df()
        for store in (stores.lake, stores.files)
    ]
    found, expected = (plain(answer.dropna(subset=["k"])) for answer in answers)
    # Feast's file store also names, with nulls, entities of which nothing was known by then.
    unknown = [row for row in expected if row not in found]
    assert [row for row in expected if row in found] == found
    assert not unknown or known
    assert all(row[2:] == (None, None) for row in unknown)


def plain(frame: pd.DataFrame) -> Sequence[tuple[Any, ...]]:
    """The rows as a set: plain values, None for every kind of null, columns by name."""
    columns = sorted(frame.columns)
    rows = [
        tuple(None if pd.isna(value) else value for value in row)
        for row in frame[columns].itertuples(index=False, name=None)
    ]
    return sorted(rows, key=repr)
