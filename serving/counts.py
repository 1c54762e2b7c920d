"""What the server's processes count together: numbers in memory that they share, each process adding to its own."""

import mmap
import multiprocessing
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GRPC_ROUTE = "/feast.serving.ServingService/GetOnlineFeatures"
ROUTES = (
    "/get-online-features",
    "/retrieve-online-documents",
    "/search",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/console",
    GRPC_ROUTE,
    "other",
)
STATUSES = (200, 303, 400, 401, 403, 404, 405, 408, 413, 422, 429, 499, 500, 503)
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histogram, in seconds; the last bucket has no bound."""

_ROUTE = {route: number for number, route in enumerate(ROUTES)}
_STATUS = {status: number for number, status in enumerate(STATUSES)}
_OTHER = _ROUTE["other"]
_WIDTH = len(STATUSES) + len(BUCKETS) + 3
"""Numbers a route: requests by status, requests by bucket, seconds, entities."""
_SECONDS, _ENTITIES = _WIDTH - 2, _WIDTH - 1


@dataclass(frozen=True, slots=True)
class RouteCount:
    """What was counted of one route: requests by status, requests by bucket (not cumulated), seconds, entities."""

    route: str
    statuses: Sequence[tuple[int, int]]
    buckets: Sequence[int]
    seconds: float
    entities: int


class Counts:
    """Counts of all processes. Made before they are forked; each claims a place of its own."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._claimed = multiprocessing.Value("q", 0)
        self._size = len(ROUTES) * _WIDTH
        self._numbers: memoryview[float] = memoryview(mmap.mmap(-1, processes * self._size * 8)).cast("d")

    def claim(self) -> "ProcessCounts":
        """A place where one process counts; when all are taken, that of the process which claimed the longest ago."""
        with self._claimed.get_lock():
            number = self._claimed.value
            self._claimed.value += 1
        start = number % self._processes * self._size
        return ProcessCounts(self._numbers[start : start + self._size])

    def routes(self) -> Iterator[RouteCount]:
        """The sums over all processes."""
        for number, route in enumerate(ROUTES):
            starts = [process * self._size + number * _WIDTH for process in range(self._processes)]
            sums = [sum(self._numbers[start + place] for start in starts) for place in range(_WIDTH)]
            yield RouteCount(
                route,
                [(status, int(sums[place])) for place, status in enumerate(STATUSES)],
                [int(value) for value in sums[len(STATUSES) : _SECONDS]],
                sums[_SECONDS],
                int(sums[_ENTITIES]),
            )


class ProcessCounts:
    """Where one process counts its requests."""

    def __init__(self, numbers: "memoryview[float]") -> None:
        self._numbers = numbers

    def count(self, route: str, status: int, seconds: float, entities: int) -> None:
        """One answered request."""
        start = _ROUTE.get(route, _OTHER) * _WIDTH
        numbers = self._numbers
        numbers[start + _STATUS[status]] += 1
        numbers[start + len(STATUSES) + bisect_left(BUCKETS, seconds)] += 1
        numbers[start + _SECONDS] += seconds
        if entities:
            numbers[start + _ENTITIES] += entities
