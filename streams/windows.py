"""Table-level expectations, window by window: evaluated in a process of their own, reported, rejecting nothing.

Great Expectations takes seconds to load and holds the interpreter while it works; in a second process it costs
the stream nothing.
"""

import logging
import multiprocessing
import time
from dataclasses import replace
from multiprocessing.pool import AsyncResult, Pool
from typing import Any

import pyarrow.compute as pc

from streams.personal import HIDDEN
from streams.pipeline import Flows, Outcome
from streams.views import LIVE
from validation.rule import Outcome as RuleOutcome
from validation.window import Window, evaluate

log = logging.getLogger(__name__)

LONGEST_SECONDS = 300.0
"""After which an evaluation is given up: a pool does not tell that its process was killed with the work it had."""


class Windows:
    """The windows of all tables whose contracts have table-level expectations."""

    def __init__(self, flows: Flows, rows: int, seconds: float) -> None:
        self._rules = {topic: flow.contract.table_rules for topic, flow in flows.items() if flow.contract.table_rules}
        self._windows = {topic: Window(flows[topic].contract, rows, seconds) for topic in self._rules}
        self._personal = {topic: flows[topic].personal for topic in self._rules}
        self._process: Pool | None = None
        self._running: dict[str, tuple[float, AsyncResult[list[RuleOutcome]]]] = {}
        self.results: dict[str, list[dict[str, Any]]] = {}

    def add(self, outcome: Outcome) -> None:
        """Add the accepted rows of a table; deletes and truncates have no values to judge."""
        window = self._windows.get(outcome.records.topic)
        if window is not None:
            rows = outcome.accepted.changes.rows
            window.add(rows.filter(pc.is_in(rows["_op"], LIVE)))

    def tick(self) -> None:
        """Hand windows that are due to the evaluation, and take its results; never waits."""
        for topic, window in self._windows.items():
            began, running = self._running.get(topic, (0.0, None))
            if running is not None and running.ready():
                del self._running[topic]
                self._report(topic, running)
            elif running is not None and time.monotonic() > began + LONGEST_SECONDS:
                self._unjudged(topic, f"nothing was heard of them for {LONGEST_SECONDS:g} s")
                self.close()
            elif running is None and window.due and (rows := window.drain()) is not None:
                self._running[topic] = time.monotonic(), self._pool().apply_async(evaluate, (self._rules[topic], rows))

    def close(self) -> None:
        """End the process, whatever it is at: what it would report no longer matters. Another is begun when needed."""
        if self._process is not None:
            self._process.terminate()
            self._process.join()
        self._process = None
        self._running.clear()

    def _pool(self) -> Pool:
        if self._process is None:
            # Forking would copy the threads' locks in whatever state they are.
            self._process = multiprocessing.get_context("spawn").Pool(1)
        return self._process

    def _report(self, topic: str, finished: AsyncResult[list[RuleOutcome]]) -> None:
        try:
            outcomes = [self._shown(topic, outcome) for outcome in finished.get()]
        except Exception as error:  # noqa: BLE001  # whatever the evaluation raised in its process
            self._unjudged(topic, f"{type(error).__name__}: {HIDDEN}" if self._personal[topic] else error)
            return
        self.results[topic] = [_plain(outcome) for outcome in outcomes]
        for outcome in outcomes:
            if not outcome.success:
                told = outcome.error or f"observed {outcome.observed}"
                log.warning(
                    "%s: of a window of %d rows: %s (%s): %s",
                    topic,
                    outcome.rows,
                    outcome.rule.expectation,
                    outcome.rule.severity,
                    told,
                    extra={"event": "window_failed", "table": topic},
                )

    def _unjudged(self, topic: str, why: object) -> None:
        told = "%s: its table-level expectations could not be evaluated: %s"
        log.error(told, topic, why, extra={"event": "window_unjudged", "table": topic})

    def _shown(self, topic: str, outcome: RuleOutcome) -> RuleOutcome:
        """The outcome, without what was observed of personal data."""
        if not self._personal[topic].read_by(outcome.rule):
            return outcome
        return replace(outcome, observed=HIDDEN, error=outcome.error and HIDDEN)


def _plain(outcome: RuleOutcome) -> dict[str, Any]:
    return {
        "expectation": outcome.rule.expectation,
        "columns": list(outcome.rule.columns),
        "severity": outcome.rule.severity,
        "success": outcome.success,
        "rows": outcome.rows,
        "observed": outcome.observed,
        "error": outcome.error,
    }
