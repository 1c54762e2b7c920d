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
FOLLOWS = b"connected"
"""The state, in a replica's answer to ROLE, of one that receives what its primary writes."""


class ReplicaReads:
    """Reads by turns from the replicas that follow their primary, within one event loop.

    A replica that is away, slow (`timeout` seconds, as in `RedisReads`), loading or cut off from its primary is left
    out until it is well again; a read that it fails is asked of the next. What is read may be older than what the
    primary has by as much as replication lags.
    """

    def __init__(self, replicas: Sequence[RedisAddress], primary: RedisAddress, timeout: float) -> None:
        self._replicas = {address: RedisReads(address, timeout) for address in replicas}
        self._primary = RedisReads(primary, timeout)
        self._following: list[RedisReads] = []
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
        return self._primary.ready or any(reads.ready for reads in self._following)

    async def read(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands. Raises `StoreUnavailable` and `StoreRefused`."""
        for reads in self._by_turns():
            try:
                return await reads.read(commands)
            except StoreUnavailable:
                continue
        return await self._primary.read(commands)

    def _by_turns(self) -> Iterator[RedisReads]:
        """The replicas that can be asked, another first each time."""
        following = self._following
        self._turn += 1
        for place in range(len(following)):
            reads = following[(self._turn + place) % len(following)]
            if reads.ready:
                yield reads

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        following = []
        for address, reads in self._replicas.items():
            follows = await _follows(reads)
            if not follows and reads in self._following:
                log.warning("replica %s is left out", address, extra={"event": "replica_left_out"})
            if follows:
                following.append(reads)
        self._following = following


async def _follows(reads: RedisReads) -> bool:
    try:
        (role,) = await reads.read([ROLE])
    except (StoreUnavailable, StoreRefused):
        return False
    # The answer of a Sentinel, which may be there by mistake, is shorter.
    return bool(role[0] == b"master" or (len(role) > 3 and role[3] == FOLLOWS))
