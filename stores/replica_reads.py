"""Reads of the online store spread over replicas: the primary is asked when none of them can answer."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from stores.errors import StoreRefused, StoreUnavailable
from stores.online import RedisAddress
from stores.online_reads import RedisReads
from stores.operations import command

log = logging.getLogger("millrace")

LOOK_SECONDS = 1.0
"""Between looks at whether the replicas follow their primary."""

ROLE = command(b"ROLE")
REPLICATION = command(b"INFO", b"replication")
FOLLOWS = b"connected"
"""The state, in a replica's answer to ROLE, of one that receives what its primary writes."""


class ReplicaReads:
    """Reads by turns from the replicas that follow their primary, within one event loop.

    A replica that is away, slow (`timeout` seconds, as in `RedisReads`), loading or cut off from its primary is left
    out until it is well again; a read that it fails is asked of the next, one that it let wait of the primary. What is
    read may be older than what the primary has by as much as replication lags.

    One that follows nobody is read if it is the primary by another name, or what the primary follows, and while the
    primary is away if it was of the same replication: then it was promoted, by all that can be told. A replica that was
    started anew and follows nobody is of a replication of its own.
    """

    def __init__(self, replicas: Sequence[RedisAddress], primary: RedisAddress, timeout: float) -> None:
        self._replicas = {address: RedisReads(address, timeout) for address in replicas}
        self._primary = RedisReads(primary, timeout)
        self._timeout = timeout
        self._primary_answers = False
        self._histories: set[bytes] = set()
        """Replication ids: the primary's as it was heard of last, and those of who succeeded it since."""
        self._following: list[tuple[RedisReads, object]] = []
        """Each with the connection that it was found well by: by another one it is not asked before it is looked at."""
        self._turn = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to all, in the background of the running loop."""
        await asyncio.gather(*(reads.start() for reads in (*self._replicas.values(), self._primary)))
        await self._look()
        self._task = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        """Disconnect for good."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for reads in (*self._replicas.values(), self._primary):
            await reads.close()

    @property
    def ready(self) -> bool:
        """Whether one of them answers."""
        return self._primary.ready or any(reads.connection is known for reads, known in self._following)

    async def read(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands. Raises `StoreUnavailable` and `StoreRefused`."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for reads in self._by_turns():
            try:
                return await reads.read(commands)
            except StoreUnavailable:
                if loop.time() - begun >= self._timeout:  # the next one may hang as well: nobody waits for each in turn
                    break
        return await self._primary.read(commands)

    def _by_turns(self) -> Iterator[RedisReads]:
        """The replicas that can be asked, another first each time."""
        following = self._following
        self._turn += 1
        for place in range(len(following)):
            reads, known = following[(self._turn + place) % len(following)]
            if reads.connection is known:
                yield reads

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        await self._look_at_primary()
        following = []
        for address, reads in self._replicas.items():
            connection = reads.connection
            follows = await self._follows(reads)
            if not follows and any(reads is known for known, _ in self._following):
                log.warning("replica %s is left out", address, extra={"event": "replica_left_out"})
            if follows and connection is not None:
                following.append((reads, connection))
        self._following = following

    async def _look_at_primary(self) -> None:
        try:
            current, _ = await _replication(self._primary)
        except StoreUnavailable:
            self._primary_answers = False
        except StoreRefused:  # it answers, and may not tell
            self._primary_answers, self._histories = True, set()
        else:
            self._primary_answers, self._histories = True, {current}

    async def _follows(self, reads: RedisReads) -> bool:
        try:
            (role,) = await reads.read([ROLE])
            if role[0] == b"master":
                return self._succeeds(*await _replication(reads))
        except (StoreUnavailable, StoreRefused):
            return False
        # The answer of a Sentinel, which may be there by mistake, is shorter.
        return bool(len(role) > 3 and role[3] == FOLLOWS)

    def _succeeds(self, current: bytes, before: bytes) -> bool:
        """Whether one that follows nobody has what the primary has, or has taken its place while it is away. Of a
        primary that was never heard of, the first that is found is taken for its successor."""
        if self._primary_answers:
            return current in self._histories
        if self._histories and self._histories.isdisjoint((current, before)):
            return False
        self._histories.add(current)
        return True


async def _replication(reads: RedisReads) -> tuple[bytes, bytes]:
    """The ids of the replication that a Redis is of, and of the one that it was of before it was promoted. Raises
    `StoreUnavailable`, and `StoreRefused` where it does not say."""
    (info,) = await reads.read([REPLICATION])
    told = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    if b"master_replid" not in told:
        raise StoreRefused("INFO replication names no master_replid")
    return told[b"master_replid"], told.get(b"master_replid2", b"")
