"""The server's metrics in Prometheus' format, over all its processes, whichever of them is scraped."""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serving.counts import BUCKETS, Counts


class Metrics(Collector):
    """The families of one server; `exposition` is what a scrape gets."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text for a scrape with this Accept header, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # a version in it that is no number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("millrace_requests", "Requests answered.", labels=["route", "status"])
        seconds = HistogramMetricFamily(
            "millrace_request_seconds", "From the request's head to its answer.", labels=["route"]
        )
        entities = CounterMetricFamily("millrace_entities", "Entities asked for.", labels=["route"])
        bounds = [*map(str, BUCKETS), "+Inf"]
        for route in self._counts.routes():
            for status, count in route.statuses:
                if count:
                    requests.add_metric([route.route, str(status)], count)
            if any(route.buckets):
                cumulated = list(zip(bounds, accumulate(route.buckets), strict=True))
                seconds.add_metric([route.route], cumulated, route.seconds)
            if route.entities:
                entities.add_metric([route.route], route.entities)
        yield from (requests, seconds, entities)
