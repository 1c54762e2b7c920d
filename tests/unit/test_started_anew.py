"""What a replay and a backfill wait for after an apply, and what `millrace apply` says comes next."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millrace import started_anew as waiting
from millrace.commands.declare import _show

REPO: Any = SimpleNamespace(workers_folder=Path("workers"), project="shop")
OLD, NEW = {"declared": "old"}, {"declared": "new"}


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the workers tell at each look; at the last one and after it the same."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(waiting, "running_workers", lambda _: told.pop(0) if len(told) > 1 else told[0])
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "lake", lambda _: None)
    monkeypatch.setattr(waiting, "noted", lambda lake, project: "new")
    return told


def test_workers_that_go_by_something_else_are_waited_for(looks: list[dict[str, Any]]) -> None:
    looks += [{"1": OLD, "2": OLD}, {"1": OLD}, {"1": NEW, "2": OLD}, {"1": NEW, "2": NEW}]
    said: list[str] = []
    waiting.wait_anew(REPO, said.append)
    assert len(looks) == 1
    assert said == ["waiting for the workers of this machine to start anew, as something else was applied"]


@pytest.mark.parametrize("workers", [{}, {"1": NEW}])
def test_nobody_is_waited_for_who_goes_by_it(looks: list[dict[str, Any]], workers: dict[str, Any]) -> None:
    looks.append(workers)
    said: list[str] = []
    waiting.wait_anew(REPO, said.append)
    assert said == []


def test_a_worker_that_hangs_is_named(looks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "ANEW_SECONDS", 0.01)
    looks.append({"7": OLD, "8": NEW})
    with pytest.raises(waiting.NotAnew, match="workers 7 still go by what was applied before"):
        waiting.wait_anew(REPO, lambda _: None)


def done(**told: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"project": "shop", "views": {"facts": "state"}, "fixed": [], "workers": []}
    lists = ("made_again", "captured_again", "to_recover", "to_resnapshot", "to_backfill")
    none: dict[str, Any] = {key: [] for key in lists}
    return {**nothing, **none, **told}


@pytest.mark.parametrize(
    ("told", "following"),
    [
        ({}, "next: millrace run"),
        ({"workers": ["7"]}, "the workers go by it"),
        ({"workers": ["7"], "to_backfill": ["new"]}, "next: millrace backfill --view new"),
        (
            {"to_resnapshot": ["shop.public.a"], "captured_again": ["shop.public.a"], "to_backfill": ["new"]},
            "next: millrace run, then millrace resnapshot shop.public.a, then millrace backfill --view new",
        ),
        ({"to_recover": ["shop"]}, "next: millrace run, then millrace recover shop"),
    ],
)
def test_what_comes_next(told: dict[str, Any], following: str) -> None:
    assert _show(done(**told)).splitlines()[-1] == following
