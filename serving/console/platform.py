"""What the console shows of the platform beside the features: the seam to the streams, filled by the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TableState:
    """A captured table as the running workers and the broker tell of it. `lag` in records, None if unknown; `fresh_p50`
    and `fresh_p99` in seconds from commit to online store, None before the first change."""

    lag: int | None
    accepted: int
    rejected: int
    ignored: int
    fresh_p50: float | None
    fresh_p99: float | None
    paused: str


@dataclass(frozen=True, slots=True)
class SlotState:
    """A source's connector, and its replication slot (sizes in bytes) where it is known."""

    connector: str
    slot: str
    behind: int | None
    retained: int | None
    until_lost: int | None


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker of this machine."""

    partitions: int
    staged_rows: int
    waiting_for: str


@dataclass(frozen=True, slots=True)
class PlatformState:
    """The platform at one moment. `captured` names the table (topic) of each view that is fed by one."""

    captured: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, TableState] = field(default_factory=dict)
    sources: Mapping[str, SlotState] = field(default_factory=dict)
    workers: Mapping[str, WorkerState] = field(default_factory=dict)
    stores: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LetterLine:
    """A dead letter without its record. `reasons` hold no personal data; `time` in seconds since 1970."""

    number: int
    table: str
    partition: int
    offset: int
    stage: str
    reasons: Sequence[str]
    time: float


class PlatformUnavailable(Exception):
    """What was asked for is out of reach: says what is, and what to do."""


class ReplayRefused(Exception):
    """A letter that nobody would read if it were sent again: says why, and what to do."""


class Platform(Protocol):
    """Asks the platform. Every call may take seconds and is made on a thread of its own; each raises
    `PlatformUnavailable`."""

    def state(self) -> PlatformState:
        """The state now; what does not answer stands among its problems."""

    def letters(self) -> Sequence[LetterLine]:
        """The newest letters, newest first."""

    def replay(self, number: int) -> bool:
        """Sends one letter's record through the ordinary way again; False if there is no such letter. Raises
        `ReplayRefused` for one of a table that no view captures any more."""
