"""What a replay, a backfill and a resnapshot wait for after an apply, and what `millrace apply` says comes next."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millrace import started_anew as waiting
from millrace.anew import client_id, gone_by, process_name
from millrace.commands.declare import _show
from streams.broker import BrokerUnavailable

REPO: Any = SimpleNamespace(group="shops", project="shop", workers_folder=Path("workers"))
OLD, NEW, UNTOLD = "millrace.shop.a.7.old", "millrace.shop.b.example.8.new", "rdkafka"
ANOTHER = "millrace.depot.a.9.old"
"""Of another project in the same group."""


class Group:
    """Its members at each look; at the last one and after it the same."""

    def __init__(self, looks: list[list[str]]) -> None:
        self.looks = looks

    def members(self, group: str) -> list[str]:
        assert group == REPO.group
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    told: list[list[str]] = []
    monkeypatch.setattr(waiting, "topics", lambda _: Group(told))
    monkeypatch.setattr(waiting, "running_workers", lambda _: {})
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "lake", lambda _: None)
    monkeypatch.setattr(waiting, "noted", lambda lake, project: "new")
    return told


def test_workers_that_go_by_something_else_are_waited_for(looks: list[list[str]]) -> None:
    looks += [[OLD, OLD], [OLD], [NEW, OLD], [NEW, NEW]]
    said: list[str] = []
    waiting.wait_anew(REPO, said.append)
    assert len(looks) == 1
    assert said == ["waiting for the workers to start anew, as something else was applied"]


@pytest.mark.parametrize("members", [[], [NEW], [UNTOLD, NEW, ANOTHER]])
def test_nobody_is_waited_for_who_goes_by_it(looks: list[list[str]], members: list[str]) -> None:
    looks.append(members)
    said: list[str] = []
    waiting.wait_anew(REPO, said.append)
    assert said == []


def test_a_worker_that_hangs_is_named(looks: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "ANEW_SECONDS", 0.01)
    looks.append([OLD, NEW])
    with pytest.raises(waiting.NotAnew, match=r"workers a\.7 \(host and process\) still go by what was applied before"):
        waiting.wait_anew(REPO, lambda _: None)


def test_workers_of_this_machine_are_asked_too(looks: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """While Kafka is away they have rows yet to write, and those of an earlier version tell the group nothing."""

    def away(_: object) -> None:
        raise BrokerUnavailable("it does not answer")

    here = [{"7": {"declared": "old"}, "8": {"declared": "new"}}, {"7": {}}, {"7": {"declared": "new"}}]
    monkeypatch.setattr(waiting, "topics", lambda _: SimpleNamespace(members=away))
    monkeypatch.setattr(waiting, "running_workers", lambda _: here.pop(0))
    waiting.wait_anew(REPO, lambda _: None)
    assert here == []


def test_a_member_is_known_by_its_client() -> None:
    assert gone_by("shop", client_id("shop", "0f-1")) == (process_name(os.getpid()), "0f-1")


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
