"""A worker's metrics in Prometheus' format: the one door to prometheus_client.

Everything is read off the worker when it is scraped; a batch only adds to the counters of `streams.tally`.
Names and units follow Prometheus' conventions (prometheus.io/docs/practices/naming).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from connectors.health import SlotHealth
from connectors.slots import Slots
from streams.histogram import Histogram
from streams.messages import Partition
from streams.tally import Tally


class Member(Protocol):
    """What the metrics ask of a worker, from another thread."""

    @property
    def tally(self) -> Tally:
        """Its counters."""

    @property
    def waiting_for(self) -> str | None:
        """What it waits for, None while nothing is missing."""

    @property
    def paused(self) -> Mapping[str, str]:
        """Tables that are paused, and why."""

    @property
    def topics(self) -> Iterable[str]:
        """All tables that it is for."""

    @property
    def staged_rows(self) -> int:
        """Rows that wait for the lake."""

    def lag(self) -> Mapping[Partition, int]:
        """Records of each of its partitions that it has not read."""


class Metrics(Collector):
    """The families of one worker; `exposition` is what a scrape gets."""

    def __init__(self, member: Member, slots: Slots) -> None:
        self._member = member
        self._slots = slots
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text for a scrape with this Accept header, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # a version in it that is no number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        return []  # nothing is asked of the worker before the first scrape

    def collect(self) -> Iterator[Metric]:
        yield from self._tables()
        yield from self._letters()
        yield from self._durations()
        yield from self._stores()
        yield from self._lags()
        yield from self._state()

    def _tables(self) -> Iterator[Metric]:
        tally = self._member.tally
        changes = CounterMetricFamily(
            "millrace_changes", "Records taken from Kafka, by what became of them.", labels=["table", "outcome"]
        )
        for topic in self._member.topics:
            counts = tally.topics.get(topic, Counter[str]())
            for outcome in ("accepted", "rejected", "ignored"):
                changes.add_metric([topic, outcome], counts[outcome])
        yield changes
        lenient = CounterMetricFamily(
            "millrace_expectations_failed",
            "Accepted rows that failed an expectation of severity warning or info.",
            labels=["table", "rule"],
        )
        for topic, rules in list(tally.warnings.items()):
            for rule, count in list(rules.items()):
                lenient.add_metric([topic, rule], count)
        yield lenient
        freshness = HistogramMetricFamily(
            "millrace_freshness_seconds", "From the commit in PostgreSQL to the features online.", labels=["table"]
        )
        for topic, ages in list(tally.freshness.items()):
            _add(freshness, [topic], ages)
        yield freshness

    def _letters(self) -> Iterator[Metric]:
        letters = CounterMetricFamily(
            "millrace_letters",
            "Dead letters written, by stage and kind of reason.",
            labels=["table", "stage", "reason"],
        )
        for topic, kinds in list(self._member.tally.letters.items()):
            for (stage, kind), count in list(kinds.items()):
                letters.add_metric([topic, stage, kind], count)
        yield letters

    def _durations(self) -> Iterator[Metric]:
        tally = self._member.tally
        stages = HistogramMetricFamily(
            "millrace_stage_seconds", "How long one batch takes in a stage of the worker.", labels=["stage"]
        )
        for stage, seconds in list(tally.stages.items()):
            _add(stages, [stage], seconds)
        yield stages
        flushes = HistogramMetricFamily(
            "millrace_lake_flush_seconds", "How long a flush takes: letters, lake, event views decided anew."
        )
        _add(flushes, [], tally.flushes)
        yield flushes

    def _stores(self) -> Iterator[Metric]:
        tally = self._member.tally
        files = GaugeMetricFamily(
            "millrace_lake_files", "Data files of a lake table as of this worker's last flush.", labels=["table"]
        )
        for table, count in list(tally.lake_files.items()):
            files.add_metric([table], count)
        yield files
        yield CounterMetricFamily(
            "millrace_rows_applied", "Feature rows that the online and vector stores took.", tally.stores["applied"]
        )
        yield CounterMetricFamily(
            "millrace_stale_writes_refused",
            "Feature rows that the online and vector stores kept out because they hold newer.",
            tally.stores["refused"],
        )
        embeddings = CounterMetricFamily(
            "millrace_embeddings", "Texts with a vector, by whether it had to be made.", labels=["outcome"]
        )
        embeddings.add_metric(["made"], tally.texts["embedded"])
        embeddings.add_metric(["spared"], tally.texts["spared"])
        yield embeddings

    def _lags(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "millrace_consumer_lag", "Records that this worker has yet to read.", labels=["topic", "partition"]
        )
        for partition, records in self._member.lag().items():
            lag.add_metric([partition.topic, str(partition.number)], records)
        yield lag
        up = GaugeMetricFamily(
            "millrace_source_up", "1 if the source database answers and has its slot.", labels=["source"]
        )
        active = GaugeMetricFamily("millrace_slot_active", "1 if a connector reads the slot.", labels=["source"])
        behind = GaugeMetricFamily(
            "millrace_slot_lag_bytes", "WAL that the source's slot has not confirmed.", labels=["source"]
        )
        retained = GaugeMetricFamily(
            "millrace_slot_retained_wal_bytes", "WAL that PostgreSQL keeps for the source's slot.", labels=["source"]
        )
        for source, health in self._slots().items():
            up.add_metric([source], float(isinstance(health, SlotHealth)))
            if isinstance(health, SlotHealth):
                active.add_metric([source], float(health.active))
                behind.add_metric([source], health.behind_bytes)
                retained.add_metric([source], health.retained_bytes)
        yield from (up, active, behind, retained)

    def _state(self) -> Iterator[Metric]:
        member = self._member
        yield GaugeMetricFamily(
            "millrace_worker_waiting",
            "1 while the worker waits for a store, a broker or a model.",
            float(member.waiting_for is not None),
        )
        paused = GaugeMetricFamily("millrace_table_paused", "1 while the table is paused.", labels=["table"])
        for topic in member.topics:
            paused.add_metric([topic], float(topic in member.paused))
        yield paused
        yield GaugeMetricFamily("millrace_staged_rows", "Rows that wait for the lake.", member.staged_rows)
        committed = GaugeMetricFamily(
            "millrace_last_commit_timestamp_seconds", "When offsets were last committed, since 1970."
        )
        if member.tally.committed_at is not None:
            committed.add_metric([], member.tally.committed_at)
        yield committed


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    family.add_metric(labels, histogram.cumulative(), histogram.sum)
