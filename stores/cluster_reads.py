"""Reads of a Redis Cluster: each command goes to the node that holds its key.

The map of slots is asked of the cluster, and again when a node says that a slot has moved or a node is away
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from stores.errors import StoreRefused, StoreUnavailable
from stores.online import RedisAddress, failure
from stores.online_reads import RedisReads, error_of, slot_of
from stores.operations import command

log = logging.getLogger("millrace")

SLOTS = 16_384
MAP_SECONDS = 0.5
"""Between two questions for the map of slots, while something is wrong with it."""

HOPS = 3
"""How often a read follows a slot that has moved."""

CLUSTER_SLOTS = command(b"CLUSTER", b"SLOTS")
ASKING = command(b"ASKING")

_MOVED = re.compile(r"(MOVED|ASK) \d+ (.*):(\d+)$")
"""Without a host it is the one that was asked."""

Place = tuple[str, int]


class ClusterReads:
    """Reads from the primaries of one Redis Cluster within one event loop.

    `addresses` are those of some of its nodes. A node that does not answer within `timeout` seconds is left alone, as
    in `RedisReads`: reads of its keys fail until it answers again, or another holds its slots.
    """

    def __init__(self, addresses: Sequence[RedisAddress], timeout: float) -> None:
        self._addresses = addresses
        self._configured = {(address.host, address.port) for address in addresses}
        self._timeout = timeout
        self._nodes: dict[Place, RedisReads] = {}
        self._starting: dict[Place, asyncio.Task[None]] = {}
        self._slots: list[Place | None] = [None] * SLOTS
        self._wrong = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to the nodes, in the background of the running loop; those that answer are waited for."""
        await asyncio.gather(*map(self._node, self._configured))
        await self._learn()
        self._task = asyncio.create_task(self._keep_learning())

    async def close(self) -> None:
        """Disconnect for good."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        starting = [*self._starting.values()]
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        for reads in self._nodes.values():
            await reads.close()

    @property
    def ready(self) -> bool:
        """Whether every slot has a node that answers."""
        places = set(self._slots)
        return None not in places and all(place is not None and self._nodes[place].ready for place in places)

    async def read(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands, each with its key as its first argument.

        Raises `StoreUnavailable` and `StoreRefused`.
        """
        replies: list[Any] = [None] * len(commands)
        try:
            placed = self._placed(commands)
            await self._ask(placed, commands, replies)
            hosts: dict[int, str] = {}
            for _ in range(HOPS):
                moved = {number: found for number, reply in enumerate(replies) if (found := _moved(reply))}
                if not moved:
                    break
                self._wrong.set()
                hosts = hosts or {number: host for (host, _), numbers in placed.items() for number in numbers}
                await asyncio.gather(
                    *(self._follow(moved[number], commands, number, replies, hosts) for number in moved)
                )
            for reply in replies:
                if _moved(reply):
                    raise StoreUnavailable("Redis", f"{self._addresses[0]}: a slot of the cluster moves on and on")
                if (error := error_of(reply)) is not None:
                    raise failure(self._addresses[0], error)
        except StoreUnavailable:
            self._wrong.set()
            raise
        return replies

    def _placed(self, commands: Sequence[bytes]) -> Mapping[Place, list[int]]:
        """The numbers of the commands for each node."""
        placed: dict[Place, list[int]] = {}
        for number, packed in enumerate(commands):
            place = self._slots[slot_of(packed)]
            if place is None:
                raise StoreUnavailable("Redis", "a slot of the cluster has no node that is known")
            placed.setdefault(place, []).append(number)
        return placed

    async def _ask(self, placed: Mapping[Place, list[int]], commands: Sequence[bytes], replies: list[Any]) -> None:
        asked = [self._nodes[place].ask([commands[number] for number in numbers]) for place, numbers in placed.items()]
        for numbers, answered in zip(placed.values(), await asyncio.gather(*asked), strict=True):
            for number, reply in zip(numbers, answered, strict=True):
                replies[number] = reply

    async def _follow(
        self, moved: re.Match[str], commands: Sequence[bytes], number: int, replies: list[Any], hosts: dict[int, str]
    ) -> None:
        """Ask once more where the node said: a slot that is under way only after ASKING. `hosts` are those that the
        commands were asked of last."""
        kind, host, port = moved.groups()
        hosts[number] = host or hosts[number]
        node = await self._node((hosts[number], int(port)))
        replies[number] = (await node.ask([*([ASKING] if kind == "ASK" else []), commands[number]]))[-1]

    async def _node(self, place: Place) -> RedisReads:
        """The connection to a node, made if there is none. Whoever asks while it is made waits for it."""
        reads = self._nodes.get(place)
        if reads is None:
            reads = self._nodes[place] = RedisReads(
                RedisAddress(*place, options=self._addresses[0].options), self._timeout
            )
            starting = self._starting[place] = asyncio.create_task(reads.start())
            starting.add_done_callback(lambda _: self._starting.pop(place))
        if place in self._starting:
            await asyncio.shield(self._starting[place])  # a request that is given up does not end it for the others
        return reads

    async def _keep_learning(self) -> None:
        while True:
            await self._wrong.wait()
            self._wrong.clear()
            await self._learn()
            await asyncio.sleep(MAP_SECONDS)

    async def _learn(self) -> None:
        """The map of slots, of the first node that tells it."""
        for place, reads in list(self._nodes.items()):
            try:
                (ranges,) = await reads.read([CLUSTER_SLOTS])
            except StoreUnavailable:
                continue
            except StoreRefused as error:
                log.error("%s:%s is no node of a Redis Cluster: %s", *place, error, extra={"event": "no_cluster"})
                continue
            try:
                await self._keep(ranges, place)
            except (TypeError, ValueError, AttributeError) as error:
                log.error("%s:%s tells no map of slots: %r", *place, error, extra={"event": "no_cluster"})
                continue
            return
        self._wrong.set()

    async def _keep(self, ranges: Iterable[Any], told_by: Place) -> None:
        slots: list[Place | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            place = (host.decode() if host else told_by[0], port)  # a node that knows no address of its own says none
            await self._node(place)
            slots[first : last + 1] = [place] * (last + 1 - first)
        self._slots = slots
        for place in [place for place, reads in self._nodes.items() if not reads.ready]:
            if place not in slots and place not in self._configured | self._starting.keys():
                await self._nodes.pop(place).close()


def _moved(reply: Any) -> re.Match[str] | None:
    error = error_of(reply)
    return None if error is None else _MOVED.match(error)
