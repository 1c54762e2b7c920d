"""`millrace letters` over a broker in memory: what `replay` sends, and what `list` shows."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import millrace.started_anew
import millrace.wiring
from millrace.cli import millrace as command_line
from streams.letters import MOST_KINDS, REASONS, DeadLetters, Rejection
from streams.memory import MemoryBroker, MemoryProducer, MemoryTopics
from streams.messages import Partition
from tests.envelopes import TOPIC, records
from tests.unit.command_repo import capture, command_repo

Letters = Callable[..., Result]

GONE = "bazaar.public.orders"
"""A table that no view captures any more."""


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker({TOPIC: 1, GONE: 1, "shop.letters": 1})
    for i in range(2):
        broker.append(Partition(TOPIC, 0), b"key", b"bad %d" % i)
    return broker


@pytest.fixture
def letters(tmp_path: Path, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> Letters:
    command_repo(tmp_path)
    capture(tmp_path, TOPIC)
    written = DeadLetters(MemoryProducer(broker), "shop.letters")
    bad = records((b"key", b"bad 0"), (b"key", b"bad 1"))
    written.send(bad, [Rejection(i, "contract", (f"odd: {i}",)) for i in range(2)], "v1")
    written.flush()
    for module in (millrace.wiring, millrace.started_anew):
        monkeypatch.setattr(module, "topics", lambda repo: MemoryTopics(broker))
    monkeypatch.setattr(millrace.wiring, "producer", lambda repo: MemoryProducer(broker))

    def run(*arguments: str, people: bool = False) -> Result:
        asked = ["letters", *arguments, "--repo", str(tmp_path), *([] if people else ["--json"])]
        return CliRunner().invoke(command_line, asked)

    return run


def replayed(broker: MemoryBroker, result: Result) -> list[Any]:
    """The bytes that a replay sent, all of which are rejected again."""
    assert result.exit_code == 0, result.output
    sent = broker.log[Partition(TOPIC, 0)][-json.loads(result.stdout)["replayed"] :]
    again = next(iter(MemoryTopics(broker).read(TOPIC, len(broker.log[Partition(TOPIC, 0)]) - len(sent))))
    written = DeadLetters(MemoryProducer(broker), "shop.letters")
    written.send(again, [Rejection(i, "contract", ("odd still",)) for i in range(len(again))], "v2")
    written.flush()
    return [record.value for record in sent]


def test_all_sends_each_record_once_however_often_it_failed(broker: MemoryBroker, letters: Letters) -> None:
    for _ in range(3):
        assert replayed(broker, letters("replay", "--all")) == [b"bad 0", b"bad 1"]
    assert replayed(broker, letters("replay", "--all", "--reason", "odd: 1")) == [b"bad 1"]
    assert replayed(broker, letters("replay", "--all", "--reason", "odd still")) == [b"bad 0", b"bad 1"]


def test_a_letter_that_is_named_is_sent_whatever_came_of_it(broker: MemoryBroker, letters: Letters) -> None:
    for _ in range(2):
        assert replayed(broker, letters("replay", "0")) == [b"bad 0"]
    assert replayed(broker, letters("replay", "0", "2", "3")) == [b"bad 0"] * 3
    assert replayed(broker, letters("replay", "--all")) == [b"bad 1", b"bad 0"]


def leave_behind(broker: MemoryBroker) -> None:
    """Letters 2 and 3, of a table that is not captured."""
    written = DeadLetters(MemoryProducer(broker), "shop.letters")
    bad = replace(records((b"key", b"old 0"), (b"key", b"old 1")), topic=GONE)
    written.send(bad, [Rejection(i, "contract", ("odd: then",)) for i in range(2)], "v1")
    written.flush()


def test_all_leaves_letters_out_whose_table_is_not_captured(broker: MemoryBroker, letters: Letters) -> None:
    assert json.loads(letters("replay", "--all", "--reason", "odd: 0").stdout) == {"replayed": 1, "not_captured": 0}
    leave_behind(broker)
    for chosen, sent, left in ((), 2, 2), (("--table", GONE), 0, 2), (("--reason", "then"), 0, 2):
        told = letters("replay", "--all", *chosen)
        assert (told.exit_code, json.loads(told.stdout)) == (0, {"replayed": sent, "not_captured": left})
    said = letters("replay", "--all", people=True).stdout.splitlines()
    assert said == ["2 letters sent again", f"2 letters of {GONE} left out: no view captures it any more"]
    assert not broker.log.get(Partition(GONE, 0))


def test_a_named_letter_whose_table_is_not_captured_is_refused(broker: MemoryBroker, letters: Letters) -> None:
    leave_behind(broker)
    before = len(broker.log[Partition(TOPIC, 0)])
    refused = letters("replay", "0", "3")
    assert refused.exit_code == 1
    assert f"letter 3 is of {GONE}, which no view captures" in refused.stderr and "millrace apply" in refused.stderr
    assert len(broker.log[Partition(TOPIC, 0)]) == before and not broker.log.get(Partition(GONE, 0))


def test_letters_for_people(letters: Letters) -> None:
    told = json.loads(letters("show", "1").stdout)["time"]
    shown = dict(line.split(maxsplit=1) for line in letters("show", "1", people=True).stdout.splitlines())
    assert shown["time"] == f"{told} ({datetime.fromtimestamp(told, UTC).isoformat(timespec='seconds')})"
    listed = letters("list", "--reason", "odd: 1", people=True).stdout.splitlines()
    assert len(listed) == 2 and listed[-1] == "1 letter"
    assert letters("replay", "1", people=True).stdout == "1 letter sent again\n"


@pytest.mark.parametrize("command", ["show", "replay"])
def test_a_number_below_zero_is_no_letter(letters: Letters, command: str) -> None:
    """To a broker -1 is its end, at which nothing ever stands."""
    refused = letters(command, "--", "-1")
    assert (refused.exit_code, "-1 is not in the range" in refused.stderr) == (2, True)


def test_options_that_choose_letters_are_refused_beside_numbers(broker: MemoryBroker, letters: Letters) -> None:
    for option in (("--reason", "odd: 0"), ("--stage", "decode"), ("--table", GONE), ("--since", "2030-01-01")):
        refused = letters("replay", "1", *option)
        assert (refused.exit_code, "the options choose letters for --all alone" in refused.stderr) == (2, True)
    assert len(broker.log[Partition(TOPIC, 0)]) == 2


def test_only_letters_from_the_first_named_to_the_last_are_read(broker: MemoryBroker, letters: Letters) -> None:
    leave_behind(broker)
    missing = letters("replay", "1", "4")
    assert (missing.exit_code, "there is no letter 4" in missing.stderr) == (1, True)
    written = broker.log[Partition("shop.letters", 0)]
    for place in (0, 3):
        written[place] = replace(written[place], headers={**written[place].headers, REASONS: b"cannot be read"})
    assert letters("list").exit_code == 1
    assert replayed(broker, letters("replay", "1", "1")) == [b"bad 1"]


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_list_of_nothing_is_refused(letters: Letters, limit: str) -> None:
    refused = letters("list", "--limit", limit)
    assert (refused.exit_code, "--limit" in refused.output) == (2, True)
    assert [x["letter"] for x in json.loads(letters("list", "--limit", "1").stdout)["letters"]] == [1]


def test_a_list_counts_all_letters_by_the_kinds_of_their_reasons(broker: MemoryBroker, letters: Letters) -> None:
    written = DeadLetters(MemoryProducer(broker), "shop.letters")
    bad = records((b"key", b"bad"), (b"key", b"bad"))
    for i in range(250):
        rule, other = f"expect_odd on wind: {i} (min_value=0)", f"kind_{chr(97 + i // 26)}{chr(97 + i % 26)}: {i}"
        written.send(bad, [Rejection(0, "contract", (rule, other))], "v1")
    written.flush()
    told = json.loads(letters("list", "--limit", "3").stdout)
    assert (told["count"], [one["letter"] for one in told["letters"]]) == (252, [249, 250, 251])
    assert told["reasons"]["expect_odd on wind"] == 250
    assert (told["reasons"]["odd"], len(told["reasons"])) == (2, MOST_KINDS + 1)
    assert sum(told["reasons"].values()) == 502
    assert told["letters"][-1]["reasons"] == ["expect_odd on wind: 249 (min_value=0)", "kind_jp: 249"]
