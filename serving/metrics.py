"""The server's metrics in Prometheus' format, over all its processes, whichever of them is scraped."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serving.counts import BUCKETS, Counts


class Metrics:
    """The metrics of one server."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def exposition(self, accept: str, stores: Mapping[str, bool]) -> tuple[bytes, str]:
        """The text for a scrape with this Accept header, and its content type; `stores` has whether each answers."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # a version in it that is no number
            encode, content_type = choose_encoder("")
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families(self._counts, stores))
        return encode(registry), content_type


class _Families(Collector):
    """The families of one scrape."""

    def __init__(self, counts: Counts, stores: Mapping[str, bool]) -> None:
        self._counts = counts
        self._stores = stores

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("millrace_store_up", "1 if the store answers the scraped process.", labels=["store"])
        for store, answers in self._stores.items():
            up.add_metric([store], answers)
        yield up
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
