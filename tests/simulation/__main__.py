"""`python -m tests.simulation --seeds 10000`: run many seeds; a failing one prints itself and how to replay it."""

import argparse
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count

from tests.simulation.check import problems
from tests.simulation.run import Simulation

SHOWN = 60
"""Lines of the trace that many seeds show of a failing one; its replay shows all."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one seed; `wrong` is empty if all is well."""

    seed: int
    wrong: tuple[str, ...]
    trace: tuple[str, ...]
    digest: str


def judge(seed: int) -> Verdict:
    """Run one seed and look at what it left."""
    logging.disable(logging.CRITICAL)
    simulation = Simulation(seed)
    try:
        simulation.run()
        wrong = problems(simulation)
    except Exception as error:  # noqa: BLE001  # whatever stops a worker is what the seed is there to find
        wrong = [f"{type(error).__name__}: {error}"]
    finally:
        logging.disable(logging.NOTSET)
    return Verdict(seed, tuple(wrong), tuple(simulation.scheduler.trace), simulation.digest())


def told(verdict: Verdict, lines: int | None) -> str:
    """A failing seed for people: its trace, what is wrong, how to see it again."""
    trace = verdict.trace[-lines:] if lines else verdict.trace
    left_out = [f"... {len(verdict.trace) - len(trace)} lines"] if len(trace) < len(verdict.trace) else []
    wrong = [f"seed {verdict.seed}: {problem}" for problem in verdict.wrong]
    replay = f"replay it: python -m tests.simulation --seed {verdict.seed}"
    return "\n".join([*left_out, *trace, *wrong, replay])


def main() -> int:
    """Exit code 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds, default 1000")
    parser.add_argument("--first", type=int, default=0, help="the first of them, default 0")
    parser.add_argument("--seed", type=int, help="replay this one, with its whole trace")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one a core")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        verdict = judge(arguments.seed)
        print(told(verdict, None) if verdict.wrong else "\n".join([*verdict.trace, f"seed {verdict.seed} is well"]))
        return 1 if verdict.wrong else 0
    begun, failed = time.monotonic(), []
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    with ProcessPoolExecutor(arguments.processes) as pool:
        for done, verdict in zip(count(1), pool.map(judge, seeds, chunksize=10)):
            if verdict.wrong:
                failed.append(verdict.seed)
                print(told(verdict, SHOWN), flush=True)
            if done % 250 == 0 or done == len(seeds):
                rate = done / (time.monotonic() - begun)
                print(f"{done:,} of {len(seeds):,} seeds, {len(failed)} failed, {rate:.1f} a second", flush=True)
    if failed:
        print(f"failing seeds: {', '.join(map(str, failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
