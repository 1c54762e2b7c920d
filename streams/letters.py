"""Dead letters: a rejected record's original bytes, where it stood, at which stage it failed and why."""

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import orjson

from streams.broker import Producer, Topics
from streams.messages import Headers, Partition, Records

Stage = Literal["decode", "schema", "contract", "transform"]

# The names of the headers are the format of the letters topic.
TOPIC, PARTITION, OFFSET = "millrace.topic", "millrace.partition", "millrace.offset"
STAGE, REASONS, SUITE, TIME = "millrace.stage", "millrace.reasons", "millrace.suite", "millrace.time"
REPLAY_OF = "millrace.replay-of"
"""On a replayed record: `<topic>/<partition>/<offset>` of the record that the letter was made of."""
BASE = "millrace.snapshot-base"
"""On the letter of a snapshot row, and on its replay: the base of that snapshot, by which it is as old as it was
(`streams.snapshots`)."""
REASON_CHARACTERS, MOST_REASONS = 1_000, 100
"""Of a letter: a transform's words may quote a whole text, and Kafka takes no record that is much larger than its own.
"""
OURS = "millrace."
"""What the names of all headers begin with that millrace gives a record."""
_OF_LETTERS = frozenset({TOPIC, PARTITION, OFFSET, STAGE, REASONS, SUITE, TIME})


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one record of a `Records` (by its position) is rejected."""

    position: int
    stage: Stage
    reasons: tuple[str, ...]


def kind_of(reason: str) -> str:
    """A reason without what stood in the record: `<expectation> on <column>`, `column <name>`, `view <name>` or the
    decoder's words; as many as contract, table and views can give."""
    head = reason.partition(": ")[0]
    return _OBSERVED.sub("...", _DETAIL.sub("", head))


MOST_KINDS = 200
"""Kinds of reasons that are told apart where they are counted; what comes later counts as "other"."""

_DETAIL = re.compile(r" \([^)]*\)+$")
_OBSERVED = re.compile(r"'[^']*'|\"[^\"]*\"|\b\d[\d,]{3,}\b")


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter as read back; `number` is its offset in the letters topic and its name for people; `headers`
    are all that it has: the record's own, and those of this module."""

    number: int
    origin: Partition
    offset: int
    stage: str
    reasons: tuple[str, ...]
    suite: str
    time: float
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def place(self) -> bytes:
        """Where its record stood, as `REPLAY_OF` names it on a replay."""
        return f"{self.origin.topic}/{self.origin.number}/{self.offset}".encode()

    def as_dict(self) -> dict[str, object]:
        """Everything but the original bytes."""
        return {
            "letter": self.number,
            "topic": self.origin.topic,
            "partition": self.origin.number,
            "offset": self.offset,
            "stage": self.stage,
            "reasons": list(self.reasons),
            "suite": self.suite,
            "time": self.time,
            "bytes": len(self.value or b""),
        }


class NotCaptured(Exception):
    """A letter is to be replayed whose table no view captures any more: says so, and what to do."""

    def __init__(self, letter: Letter) -> None:
        super().__init__(
            f"letter {letter.number} is of {letter.origin.topic}, which no view captures, so that no worker would read "
            "it: declare a view over the table and run millrace apply first"
        )


class DeadLetters:
    """Writes letters to one topic with one partition, so that a letter's offset is its number."""

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    def send(self, records: Records, rejections: Sequence[Rejection], suite: str, base: int | None = None) -> None:
        """Queue a letter for each rejection; the record's own headers stay. `base` is that of the snapshot, if rows of
        one are among the records. Raises `BrokerUnavailable`."""
        read = {} if base is None else {BASE: str(base).encode()}
        topic, version, now = records.topic.encode(), suite.encode(), f"{time.time():.3f}".encode()
        for rejection in rejections:
            i = rejection.position
            own = records.headers.get(i, {})
            headers = {
                **({} if REPLAY_OF in own else read),
                **own,
                TOPIC: topic,
                PARTITION: str(records.partitions[i]).encode(),
                OFFSET: str(records.offsets[i]).encode(),
                STAGE: rejection.stage.encode(),
                REASONS: orjson.dumps(_cut(rejection.reasons)),
                SUITE: version,
                TIME: now,
            }
            self._producer.send(self._topic, records.keys[i], records.values[i], headers)

    def flush(self) -> None:
        """Return once all letters are durable. Raises `BrokerUnavailable`."""
        self._producer.flush()


def _cut(reasons: Sequence[str]) -> list[str]:
    cut = [why if len(why) <= REASON_CHARACTERS else f"{why[:REASON_CHARACTERS]}..." for why in reasons[:MOST_REASONS]]
    return cut if len(reasons) <= MOST_REASONS else [*cut, f"and {len(reasons) - MOST_REASONS} more"]


def read(topics: Topics, topic: str, start: int = 0) -> Iterator[Letter]:
    """All letters in the topic from number `start` on."""
    for records in topics.read(topic, start):
        for i in range(len(records)):
            yield _letter(records, i)


def one_of_each(letters: Callable[[], Iterable[Letter]], chosen: Callable[[Letter], bool]) -> Iterator[Letter]:
    """Of the chosen letters those to replay: of one record, however often it was replayed and failed again, the newest.

    A replay that fails becomes a letter of its own, with the same bytes, that names the record it repeats. To send
    both would make two letters of them, and four the next time. Whatever else is chosen, each record of which a letter
    is chosen is sent. A place alone does not tell a record, for a topic made anew counts from 0 again: the bytes are
    compared too. `letters` gives all letters in the order of their numbers, twice; in between, a digest of each that
    stems from a replay is in memory, and nothing of the others.
    """
    records: dict[bytes, bytes] = {}
    newest: dict[bytes, int] = {}
    for letter in letters():
        repeats = letter.headers.get(REPLAY_OF)
        if repeats is not None:
            before = _digest(repeats, letter)
            record = records[_digest(letter.place, letter)] = records.get(before, before)
            if chosen(letter):
                newest[record] = letter.number
    for letter in filter(chosen, letters()):
        own = _digest(letter.place, letter)
        if newest.get(records.get(own, own), letter.number) == letter.number:
            yield letter


def check_captured(letters: Iterable[Letter], captured: Collection[str]) -> None:
    """Raises `NotCaptured` for the first letter of a table that is not among the captured topics."""
    for letter in letters:
        if letter.origin.topic not in captured:
            raise NotCaptured(letter)


def replay(producer: Producer, letters: Iterable[Letter]) -> int:
    """Send the letters' original bytes to their topics again, where they take the ordinary way.

    The worker drops a replayed change that the lake holds already, so a second replay changes nothing.
    Returns how many were sent. Raises `BrokerUnavailable`.
    """
    sent = 0
    for letter in letters:
        own = {name: value for name, value in letter.headers.items() if name not in _OF_LETTERS}
        producer.send(letter.origin.topic, letter.key, letter.value, {**own, REPLAY_OF: letter.place})
        sent += 1
    producer.flush()
    return sent


def _digest(place: bytes, letter: Letter) -> bytes:
    """A name of 16 bytes for the record that stood at a place with the bytes of this letter."""
    parts = (place, *(b"" if part is None else b"=" + part for part in (letter.key, letter.value)))
    return blake2b(b"".join(len(part).to_bytes(8) + part for part in parts), digest_size=16).digest()


def _letter(records: Records, i: int) -> Letter:
    headers: Headers = records.headers.get(i, {})

    def text(name: str) -> str:
        return (headers.get(name) or b"").decode()

    return Letter(
        number=records.offsets[i],
        origin=Partition(text(TOPIC), int(text(PARTITION) or -1)),
        offset=int(text(OFFSET) or -1),
        stage=text(STAGE),
        reasons=tuple(orjson.loads(text(REASONS) or "[]")),
        suite=text(SUITE),
        time=float(text(TIME) or 0),
        key=records.keys[i],
        value=records.values[i],
        headers=headers,
    )
