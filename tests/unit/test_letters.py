"""Letters exported and replayed: nothing of the original record is missing."""

import base64
import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from streams.export import CHUNK, CHUNK_BYTES, export
from streams.letters import REPLAY_OF, DeadLetters, Letter, Rejection, one_of_each, read, replay
from streams.memory import MemoryBroker, MemoryProducer, MemoryTopics
from streams.messages import Partition
from tests.envelopes import TOPIC, records

BYTES = b"\x00\xff{oops"


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    letters = DeadLetters(MemoryProducer(broker), "letters")
    bad = records((b"key", BYTES), (None, None), headers={0: {"trace": b"\x01"}})
    letters.send(bad, [Rejection(0, "decode", ("not JSON: odd",)), Rejection(1, "schema", ("a", "b"))], "v1")
    letters.flush()
    return broker


@pytest.fixture
def letters(broker: MemoryBroker) -> list[Letter]:
    return list(read(MemoryTopics(broker), "letters"))


def test_reasons_are_cut_so_that_a_letter_is_little_larger_than_its_record() -> None:
    broker = MemoryBroker()
    told = DeadLetters(MemoryProducer(broker), "letters")
    many = tuple(f"view {i}: {'x' * 1_000_000}" for i in range(102))
    told.send(records((b"key", BYTES)), [Rejection(0, "transform", many)], "v1")
    told.flush()
    (letter,) = read(MemoryTopics(broker), "letters")
    assert letter.reasons[0].startswith("view 0: xxx") and letter.reasons[0].endswith("...")
    assert letter.reasons[-1] == "and 2 more"
    assert sum(len(value or b"") for value in letter.headers.values()) < 150_000


def test_json_lines_hold_the_original_bytes_and_all_headers(letters: list[Letter], tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    assert export(letters, path) == 2
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["topic"], first["stage"], first["reasons"]) == (TOPIC, "decode", ["not JSON: odd"])
    assert base64.b64decode(first["value_base64"]) == BYTES
    assert base64.b64decode(first["headers_base64"]["trace"]) == b"\x01"
    assert base64.b64decode(first["headers_base64"]["millrace.suite"]) == b"v1"
    assert (second["key_base64"], second["value_base64"]) == (None, None)


def test_parquet_holds_the_same(letters: list[Letter], tmp_path: Path) -> None:
    path = tmp_path / "letters.parquet"
    assert export(letters, path) == 2
    first, second = pq.read_table(path).to_pylist()
    assert (first["key"], first["value"], dict(first["headers"])["trace"]) == (b"key", BYTES, b"\x01")
    assert first["time"].timestamp() == pytest.approx(letters[0].time, abs=0.001)
    assert (second["value"], second["reasons"], second["offset"]) == (None, ["a", "b"], 1)


def test_a_header_without_a_value(letters: list[Letter], tmp_path: Path) -> None:
    bare = [replace(letters[0], headers={"trace": None})]
    assert export(bare, tmp_path / "letters.parquet") == export(bare, tmp_path / "letters.jsonl") == 1
    assert pq.read_table(tmp_path / "letters.parquet")["headers"].to_pylist() == [[("trace", None)]]
    assert json.loads((tmp_path / "letters.jsonl").read_text())["headers_base64"] == {"trace": None}


def test_an_export_overwrites_nothing_and_leaves_no_half_file(letters: list[Letter], tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        export(letters, path)
    assert path.read_text() == "mine"

    def broken() -> object:
        yield letters[0]
        raise RuntimeError

    other = tmp_path / "other.jsonl"
    with pytest.raises(RuntimeError):
        export(broken(), other)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["letters.jsonl", "letters.parquet"])
def test_an_export_that_cannot_be_written_says_why(letters: list[Letter], tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        export(letters, tmp_path / "missing" / name)
    assert raised.value.strerror == os.strerror(errno.ENOENT)


@pytest.mark.parametrize("name", ["letters.jsonl", "letters.parquet"])
def test_an_export_has_its_name_only_once_it_is_whole(letters: list[Letter], tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    def watched() -> Iterator[Letter]:
        for _ in range(CHUNK + 1):
            assert not path.exists()
            yield letters[0]

    assert export(watched(), path) == CHUNK + 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["letters.jsonl", "letters.parquet"])
def test_memory_holds_a_bounded_part_of_large_letters(letters: list[Letter], tmp_path: Path, name: str) -> None:
    count, size = 100, CHUNK_BYTES // 16

    def large() -> Iterator[Letter]:
        for i in range(count):
            yield replace(letters[0], value=bytes([i]) * size)

    tracemalloc.start()
    try:
        assert export(large(), tmp_path / name) == count
        assert tracemalloc.get_traced_memory()[1] < count * size / 2
    finally:
        tracemalloc.stop()


KILLED = """
import os, signal, sys
from pathlib import Path
from streams.export import CHUNK, export
from streams.letters import Letter
from streams.messages import Partition

letter = Letter(0, Partition("t", 0), 0, "decode", ("odd",), "v1", 0.0, b"k", b"v", {})

def killed():
    yield from [letter] * (CHUNK + 1)
    os.kill(os.getpid(), signal.Signals[sys.argv[2]])

export(killed(), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("fault", ["SIGTERM", "SIGKILL"])
def test_an_export_that_is_killed_leaves_nothing_under_its_name(
    letters: list[Letter], tmp_path: Path, fault: str
) -> None:
    path = tmp_path / "letters.jsonl"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path), fault]).returncode == -signal.Signals[fault]
    assert not path.exists()
    assert [file.suffix for file in tmp_path.iterdir()] == [".partial"]
    assert export(letters, path) == 2


def test_an_export_overwrites_no_file_that_came_meanwhile(letters: list[Letter], tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"

    def overtaken() -> Iterator[Letter]:
        yield letters[0]
        path.write_text("mine")

    with pytest.raises(FileExistsError):
        export(overtaken(), path)
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "mine")]


def test_a_replay_is_the_record_as_it_came_and_says_what_it_repeats(
    broker: MemoryBroker, letters: list[Letter]
) -> None:
    assert replay(MemoryProducer(broker), letters) == 2
    first, second = broker.log[Partition(TOPIC, 0)]
    assert (first.key, first.value) == (b"key", BYTES)
    assert first.headers == {"trace": b"\x01", REPLAY_OF: f"{TOPIC}/0/0".encode()}
    assert second.headers == {REPLAY_OF: f"{TOPIC}/0/1".encode()}


def every(letter: Letter) -> bool:
    return True


def fail_again(broker: MemoryBroker, start: int) -> None:
    """A worker that rejects what the table's topic holds from an offset on."""
    letters = DeadLetters(MemoryProducer(broker), "letters")
    for again in MemoryTopics(broker).read(TOPIC, start):
        letters.send(again, [Rejection(i, "contract", ("odd still",)) for i in range(len(again))], "v2")
    letters.flush()


def test_what_fails_every_night_gets_a_letter_a_night(broker: MemoryBroker, letters: list[Letter]) -> None:
    nights = []
    for _ in range(5):
        end = len(broker.log[Partition(TOPIC, 0)])
        nights.append(replay(MemoryProducer(broker), one_of_each(lambda: read(MemoryTopics(broker), "letters"), every)))
        fail_again(broker, end)
    assert nights == [2] * 5


def test_of_letters_that_the_options_leave_out_none_stands_for_a_chosen_one(
    broker: MemoryBroker, letters: list[Letter]
) -> None:
    replay(MemoryProducer(broker), letters)
    fail_again(broker, 0)

    def all_of_them() -> Iterator[Letter]:
        return read(MemoryTopics(broker), "letters")

    assert [x.number for x in one_of_each(all_of_them, lambda letter: letter.stage == "decode")] == [0]
    assert [x.number for x in one_of_each(all_of_them, lambda letter: letter.number < 2)] == [0, 1]
    assert [x.number for x in one_of_each(all_of_them, every)] == [2, 3]


def test_a_topic_made_anew_has_other_records_at_the_same_places(broker: MemoryBroker, letters: list[Letter]) -> None:
    broker.log[Partition(TOPIC, 0)].clear()
    broker.append(Partition(TOPIC, 0), b"key", b"of the new topic")
    fail_again(broker, 0)
    (new,) = list(read(MemoryTopics(broker), "letters"))[2:]
    assert (new.place, new.number) == (letters[0].place, 2)
    replay(MemoryProducer(broker), [new])
    fail_again(broker, 1)
    sent = one_of_each(lambda: read(MemoryTopics(broker), "letters"), every)
    assert [(x.number, x.value) for x in sent] == [(0, BYTES), (1, None), (3, b"of the new topic")]


def test_a_letter_whose_elders_are_gone_is_sent(broker: MemoryBroker, letters: list[Letter]) -> None:
    replay(MemoryProducer(broker), letters)
    fail_again(broker, 0)
    assert [x.number for x in one_of_each(lambda: read(MemoryTopics(broker), "letters", 3), every)] == [3]
