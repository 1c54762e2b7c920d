"""What `/console` shows of the platform: `serving.console.platform.Platform` for a feature repo."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from millrace.repo import Repo
from millrace.status import repo_status
from millrace.wiring import producer, topics
from serving.applied import check
from serving.console.platform import (
    LetterLine,
    Platform,
    PlatformState,
    PlatformUnavailable,
    ReplayRefused,
    SlotState,
    TableState,
    WorkerState,
)
from stores.errors import RegistryUnreadable
from stores.feast_functions import FunctionUnloadable
from streams.broker import BrokerUnavailable, Topics
from streams.declarations import DeclarationError
from streams.letters import Letter, NotCaptured, check_captured, read, replay
from streams.messages import Partition
from streams.personal import NOTHING, PersonalColumns

LETTERS = 100
"""Letters that are shown, the newest."""


class RepoPlatform(Platform):
    """The platform of one repo. What connects to Kafka is made when it is asked, in the process that asks. Threads may
    share it."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo

    def state(self) -> PlatformState:
        with _told():
            check(self._repo.config)
            captured = {one.view.name: one.topic for one in self._repo.declared()}
            return platform_state(captured, repo_status(self._repo))

    def letters(self) -> Sequence[LetterLine]:
        repo = self._repo
        with _told():
            check(repo.config)
            return newest_letters(topics(repo), repo.group, repo.letters_topic, repo.personal())

    def replay(self, number: int) -> bool:
        repo = self._repo
        with _told():
            check(repo.config)
            letters = read(topics(repo), repo.letters_topic, number)
            found = [letter for letter in islice(letters, 1) if letter.number == number]
            try:
                check_captured(found, repo.personal())
            except NotCaptured as error:
                raise ReplayRefused(str(error)) from error
            return bool(found and replay(producer(repo), found))


def newest_letters(
    broker: Topics, group: str, topic: str, personal: Mapping[str, PersonalColumns]
) -> Sequence[LetterLine]:
    """The newest `LETTERS` letters of a topic of one partition, newest first. Raises `BrokerUnavailable`."""
    end = broker.committed(group, [topic]).get(Partition(topic, 0), (0, 0))[1]
    found = [
        letter_line(letter, personal.get(letter.origin.topic, NOTHING))
        for letter in read(broker, topic, max(0, end - LETTERS))
    ]
    return found[: -LETTERS - 1 : -1]


def platform_state(captured: Mapping[str, str], status: Mapping[str, Any]) -> PlatformState:
    """The state, from what `repo_status` answers."""
    workers: Mapping[str, Mapping[str, Any]] = status["workers"]
    return PlatformState(
        captured=captured,
        tables={table: _table(table, status["lag"], workers.values()) for table in sorted(set(captured.values()))},
        sources={
            name: _slot(status["connectors"].get(name, ""), status["slots"].get(name))
            for name in sorted({*status["connectors"], *status["slots"]})
        },
        workers={
            name: WorkerState(len(worker["partitions"]), worker["staged_rows"], worker["waiting_for"] or "")
            for name, worker in workers.items()
        },
        stores=status["stores"],
        problems=status["problems"],
    )


def letter_line(letter: Letter, personal: PersonalColumns) -> LetterLine:
    """A letter for the page, its reasons without personal data."""
    reasons = tuple(map(personal.reason, letter.reasons))
    origin = letter.origin
    return LetterLine(letter.number, origin.topic, origin.number, letter.offset, letter.stage, reasons, letter.time)


def _table(table: str, lag: Mapping[str, int], workers: Any) -> TableState:
    counts: Counter[str] = Counter()
    for worker in workers:
        counts.update(worker["tables"].get(table, {}))
    ages = [worker["freshness"][table] for worker in workers if table in worker["freshness"]]
    p50, p99 = (max((age[name] for age in ages if age[name] is not None), default=None) for name in ("p50", "p99"))
    paused = next((worker["paused"][table] for worker in workers if table in worker["paused"]), "")
    return TableState(lag.get(table), counts["accepted"], counts["rejected"], counts["ignored"], p50, p99, paused)


def _slot(connector: str, slot: Mapping[str, Any] | None) -> SlotState:
    if slot is None:
        return SlotState(connector, "", None, None, None)
    state = f"{'active' if slot['active'] else 'not read'}, {slot['wal_status']}"
    return SlotState(connector, state, slot["behind_bytes"], slot["retained_bytes"], slot["safe_wal_size"])


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (BrokerUnavailable, DeclarationError, RegistryUnreadable, FunctionUnloadable) as error:
        raise PlatformUnavailable(str(error)) from error
