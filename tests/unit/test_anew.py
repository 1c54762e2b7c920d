"""When a running worker starts anew: once what it goes by was applied again, or something else is declared."""

import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from connectors.table import Column
from connectors.table_file import dumps
from millrace.anew import AppliedWatch, begin, digest, note, noted
from streams.decide import changes_table
from streams.drift import APPLIED_PROPERTY, TABLE_PROPERTY
from streams.personal import PersonalColumns
from tests.envelopes import ORDERS, TOPIC
from tests.worker_platform import Platform

PROJECT = "shop"
WITH_CITY = replace(ORDERS, columns=(*ORDERS.columns, Column("city", "text", pa.string(), "plain", nullable=True)))


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    made = Platform(tmp_path)
    made.lake.describe(changes_table(TOPIC), {TABLE_PROPERTY: dumps([ORDERS]), APPLIED_PROPERTY: "10"})
    begin(made.lake, PROJECT)
    note(made.lake, PROJECT, "one")
    return made


def watch(
    platform: Platform, began: str | None, held: Collection[str] = (), seconds: float = 0.01
) -> tuple[AppliedWatch, threading.Event]:
    stop = threading.Event()
    return AppliedWatch(platform.lake, PROJECT, began, [TOPIC], stop, lambda: held, seconds=seconds), stop


@pytest.mark.parametrize(
    ("change", "held"),
    [
        (lambda p: p.lake.describe(changes_table(TOPIC), {APPLIED_PROPERTY: "20"}), [TOPIC]),
        (lambda p: note(p.lake, PROJECT, "another"), []),
    ],
)
def test_a_worker_starts_anew(platform: Platform, change: Callable[[Platform], None], held: list[str]) -> None:
    """A table that it holds was applied again, something else is declared."""
    looking, stop = watch(platform, noted(platform.lake, PROJECT), held)
    assert not stop.wait(0.05) and not looking.seen
    change(platform)
    assert stop.wait(10) and looking.seen


def test_another_project_over_the_same_lake_changes_nothing(platform: Platform) -> None:
    looking, stop = watch(platform, "one")
    begin(platform.lake, "other")
    note(platform.lake, "other", "another")
    assert not stop.wait(0.05) and not looking.seen
    looking.close()


def test_a_worker_starts_anew_when_none_of_its_tables_is_captured_any_more(platform: Platform) -> None:
    """Nothing is noted of those then."""
    looking, stop = watch(platform, "one")
    note(platform.lake, PROJECT, "of other tables")
    assert stop.wait(10) and looking.seen


def test_an_apply_during_its_start_is_not_missed(platform: Platform) -> None:
    """Between its reading of what is declared and the watch's beginning."""
    began = noted(platform.lake, PROJECT)
    assert (began, noted(platform.lake, "never_applied")) == ("one", None)
    note(platform.lake, PROJECT, "another")
    looking, stop = watch(platform, began, seconds=3_600)
    assert stop.wait(10) and looking.seen


def test_an_apply_that_was_cut_off_is_known_to_the_next(platform: Platform) -> None:
    """Whoever started meanwhile may go by a part of what it declared."""
    assert not begin(platform.lake, PROJECT)
    assert noted(platform.lake, PROJECT) == "one"
    assert begin(platform.lake, PROJECT) and begin(platform.lake, PROJECT)
    note(platform.lake, PROJECT, "two")
    assert noted(platform.lake, PROJECT) == "two"
    assert not begin(platform.lake, PROJECT)


def test_what_is_declared_has_a_digest(platform: Platform, tmp_path: Path) -> None:
    """The same for the same, another for another; code counts where it is run, its form nowhere, and personal columns
    where there are any."""
    folder = tmp_path / "repo"
    folder.mkdir()
    module = folder / "features.py"
    module.write_text("RATE = 1\n")
    plain, contracts = platform.flow.views, {TOPIC: "1", "other": "1"}
    computed = tuple(replace(view, transform=lambda rows: (rows, np.arange(rows.num_rows))) for view in plain)
    hidden = {TOPIC: PersonalColumns(frozenset({"customer", "amount", "placed_at"}))}
    made = [
        digest(folder, plain, contracts, {}),
        digest(folder, plain[:1], contracts, {}),
        digest(folder, plain, {TOPIC: "1"}, {}),
        digest(folder, plain, {**contracts, TOPIC: "2"}, {}),
        digest(folder, computed, contracts, {}),
        digest(folder, plain, contracts, hidden),
        digest(folder, plain, contracts, {TOPIC: PersonalColumns(frozenset({"customer"}))}),
        digest(folder, plain, contracts, {TOPIC: PersonalColumns(every=True)}),
        digest(folder, [replace(view, table=WITH_CITY) for view in plain], contracts, {}),
    ]
    assert len(set(made)) == 9
    assert digest(folder, plain[::-1], dict(reversed(contracts.items())), {}) == made[0]
    again = {"other": PersonalColumns(), TOPIC: PersonalColumns(frozenset({"placed_at", "amount", "customer"}))}
    assert digest(folder, plain, contracts, again) == made[5]
    module.write_text("# the rate\nRATE   = 1\n")
    assert digest(folder, computed, contracts, {}) == made[4]
    module.write_text("RATE = 2\n")
    assert digest(folder, computed, contracts, {}) != made[4]
    assert digest(folder, plain, contracts, {}) == made[0]
