"""The seam to the broker: what the worker, the letters and the jobs need of Kafka, and no more."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from streams.messages import Headers, Partition, Records


class BrokerUnavailable(Exception):
    """The broker does not answer, or did not confirm: keep what was to be sent and try again."""


Rebalanced = Callable[[Collection[Partition]], None]
"""Called with the partitions that a rebalance gives or takes."""


class Consumer(Protocol):
    """One member of a consumer group. Offsets are committed only by `commit`."""

    @property
    def unavailable(self) -> str | None:
        """Why no broker can be reached, as a sentence; None while one can. Kept up to date by `poll`."""

    def subscribe(self, topics: Sequence[str], assigned: Rebalanced, revoked: Rebalanced, lost: Rebalanced) -> None:
        """Join the group; reading starts at the committed offsets, or at the beginning.

        The callbacks run inside `poll` and `close`. `revoked` comes before partitions go to another member:
        the last moment to commit their offsets. `lost` tells of partitions that another member may own
        already: nothing can be committed for them."""

    def poll(self, timeout: float, limit: int) -> list[Records]:
        """Wait up to `timeout` seconds for a first record, then take what is there, up to `limit`.

        Answers within a millisecond of the first record's arrival after a pause; while records keep coming it may
        let a few gather, for some milliseconds. Raises `BrokerUnavailable`.
        """

    def pause(self, partitions: Collection[Partition]) -> None:
        """Stop fetching these; `poll` goes on to keep the membership alive."""

    def resume(self, partitions: Collection[Partition]) -> None:
        """Fetch these again, from where they stopped."""

    def span(self, partition: Partition) -> tuple[int, int]:
        """The offsets of the partition's first record and after its last. Raises `BrokerUnavailable`."""

    def committed(self, partition: Partition) -> int | None:
        """The group's committed offset, None if there is none. Raises `BrokerUnavailable`."""

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit synchronously; partitions no longer owned are left out. Raises `BrokerUnavailable`."""

    def lag(self) -> Mapping[Partition, int]:
        """Records between the position and the end of each assigned partition, as last heard."""

    def close(self) -> None:
        """Leave the group."""


class Follower(Protocol):
    """Reads a topic of one partition from its end on, in no group: every follower gets every record."""

    def poll(self) -> list[Records]:
        """What came since the last call; never waits, and is empty while the broker is away."""

    def close(self) -> None:
        """Stop reading."""


class Producer(Protocol):
    """Sends with acknowledgement from all in-sync replicas."""

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """Queue a record. Blocks when the queue is full. Raises `BrokerUnavailable`."""

    def flush(self) -> None:
        """Return once every queued record is durable. Raises `BrokerUnavailable` if one is not: it stays queued."""


class Topics(Protocol):
    """Topics as such: made at apply, read from the beginning by the letters commands."""

    def ping(self) -> None:
        """Raises `BrokerUnavailable`, with what to do, if the broker does not answer within seconds."""

    def ensure(self, topics: Mapping[str, int], settings: Mapping[str, str]) -> Sequence[str]:
        """Create the missing topics with the given partition counts; returns the names it made.
        A topic that has fewer partitions than declared is an error. Raises `BrokerUnavailable`."""

    def read(self, topic: str, start: int = 0) -> Iterator[Records]:
        """All records that the topic holds now, from offset `start` of each partition."""

    def committed(self, group: str, topics: Sequence[str]) -> Mapping[Partition, tuple[int, int]]:
        """For each partition of the topics that exist: the offset from which the group has yet to commit, and the end
        offset. The first is what it committed, but never before the partition's first record: nothing comes of records
        that passed their retention, and a group that committed nothing begins there. Raises `BrokerUnavailable`."""

    def members(self, group: str) -> Sequence[str]:
        """The clients' ids of a group's consumers, wherever they run; one that was killed counts until its session is
        over. Raises `BrokerUnavailable`."""
