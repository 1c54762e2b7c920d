"""A run: the workload goes on, fault after fault strikes, then the verdict."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from feast import FeatureStore

from tests.chaos.faults import CALM, Fault, schedule, strike
from tests.chaos.ground import Ground, ground
from tests.chaos.ledger import Ledger
from tests.chaos.verdict import Verdict, judge
from tests.chaos.workload import HASTE, PACE, PROBE_KEY, Workload

Say = Callable[[str], None]

PATIENCE_SECONDS = 120.0
WARM_UP = 60
"""Transactions before the first fault."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run; `value` is the JSON object of the last line."""

    value: dict[str, Any]
    right: bool


@dataclass
class Run:
    """One run. Seed, number of faults, workers and window give the same statements and the same faults in the
    same order, each at the same count of transactions."""

    seed: int
    faults: int
    workers: int = 3
    window: int = 40
    only: str = ""
    keep: bool = False
    _recoveries: list[float] = field(default_factory=list)
    _meanwhile: int = 0

    def report(self, say: Say) -> Report:
        """Do it all on a stack of its own."""
        say(f"seed {self.seed}, {self.faults} faults: starting a stack")
        with ground(self.workers) as place:
            say(f"logs and data: {place.folder}")
            ledger = Ledger()
            workload = Workload(place.database, self.seed, ledger)
            workload.start()
            struck: list[Fault] = []
            try:
                self._strike_all(place, workload, struck, say)
                verdict = judge(place, ledger)
                verified = place.workers.command("verify", "--wait", "20")
                mismatches = sum(verified[kind] for kind in ("mismatches", "lost", "doubled"))
            except BaseException:
                place.keep = True
                self._tell(place, struck, say)
                raise
            right = verdict.right and not mismatches and not place.workers.crashes
            place.keep = self.keep or not right
            if not right:
                self._tell(place, struck, say)
                for line in (*verdict.lines(), *place.workers.crashes):
                    say(line)
            return Report(self._value(place, ledger, verdict, mismatches, len(struck)), right)

    def _strike_all(self, place: Ground, workload: Workload, struck: list[Fault], say: Say) -> None:
        store = place.feast()
        workload.allow(WARM_UP)
        workload.wait(WARM_UP)
        self._recovered(place, workload, store)
        planned = [f for f in schedule(self.seed, self.faults, self.window) if self.only in f.kind]
        for i, fault in enumerate(planned):
            begin = WARM_UP + i * self.window
            workload.allow(begin + self.window)
            workload.wait(begin + (self.window if fault.kind in CALM else fault.after))
            if fault.kind in CALM:
                self._recovered(place, workload, store)
            struck.append(fault)
            say(f"{fault} ...")
            began, done = time.monotonic(), workload.done
            workload.pause = PACE
            strike(fault, place)
            workload.pause = HASTE
            took = time.monotonic() - began
            self._meanwhile += workload.done - done
            for worker in place.workers.names:
                place.workers.start(worker)
            if fault.settles or i == len(planned) - 1:
                seconds = self._recovered(place, workload, store)
                self._recoveries.append(seconds)
                say(f"{fault}: {took:.1f} s, recovered in {seconds:.1f} s")
            else:
                say(f"{fault}: {took:.1f} s")
            workload.wait(begin + self.window)
        self._recovered(place, workload, store)

    def _recovered(self, place: Ground, workload: Workload, store: FeatureStore) -> float:
        """Seconds until what is committed now is served, and everything in the topics is committed."""
        began = time.monotonic()
        v = workload.probe()

        def arrived() -> bool:
            nonlocal v
            if not workload.probe_stands:
                v = workload.probe()
            return _served(store, "account_facts", "account") <= v and _served(store, "stock_level", "sku") <= v

        self._wait(arrived, f"version {v} of the probe, or one after it, online", place)
        ends = place.ends()
        self._wait(lambda: place.reached(ends), f"everything committed up to {ends}", place)
        return time.monotonic() - began

    def _wait(self, what: Callable[[], bool], why: str, place: Ground) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not what():
            if time.monotonic() > deadline:
                crashes = "".join(f"\n{crash}" for crash in place.workers.crashes)
                behind = ", ".join(f"{at} {n} of {place.ends()[at]}" for at, n in sorted(place.committed().items()))
                raise TimeoutError(f"{why} did not come true in {PATIENCE_SECONDS:g} s; committed: {behind}{crashes}")
            time.sleep(0.05)

    def _tell(self, place: Ground, struck: list[Fault], say: Say) -> None:
        say(f"seed {self.seed}; faults so far:")
        for fault in struck:
            say(f"  {fault}")
        say(f"logs and data: {place.folder}; again: make chaos SEED={self.seed} FAULTS={self.faults}")

    def _value(self, place: Ground, ledger: Ledger, verdict: Verdict, mismatches: int, faults: int) -> dict[str, Any]:
        recoveries = self._recoveries or [0.0]
        return {
            "seed": self.seed,
            "faults": faults,
            "died_at_steps": place.workers.died_at_steps,
            "changes": len(ledger.changes),
            "transactions_while_faults_struck": self._meanwhile,
            **verdict.counts(),
            "uncaptured": len(verdict.uncaptured),
            "crashes": len(place.workers.crashes),
            "verify_mismatches": mismatches,
            **place.workers.counted(),
            "recovery_seconds": {
                "median": round(statistics.median(recoveries), 2),
                "worst": round(max(recoveries), 2),
            },
        }


def _served(store: FeatureStore, view: str, key: str) -> float:
    """The probe's `v` online; infinity where there is none yet. A Redis that is away has none."""
    try:
        answer = store.get_online_features([f"{view}:v"], [{key: PROBE_KEY}]).to_dict()
    except ConnectionError:
        return float("inf")
    v = answer["v"][0]
    return float("inf") if v is None else float(v)
