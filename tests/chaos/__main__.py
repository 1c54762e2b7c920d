"""`python -m tests.chaos --seed N --faults M`: exit code 0 if the verdict is right, 1 if not.

The report's last line is one JSON object: `seed`, `faults`, `died_at_steps` (workers that came to the step that they
were to die at; the others were killed where they were), `changes` (rows that PostgreSQL committed), `lost`, `stale`,
`undead`, `doubled`, `foreign`, `misjoined` (values of point-in-time joins), `uncaptured` (second halves of changed keys
that Debezium never wrote, which are not counted as lost), `crashes` (workers that ended by themselves),
`verify_mismatches`, `duplicates_suppressed`, `stale_writes_refused`, and `recovery_seconds`, median and worst, over the
faults after which the next one waited: from the end of a fault until a row committed then in each source is served
online and all that stood in the topics is committed.
"""

import argparse
import faulthandler
import json
import signal
import sys

from tests.chaos.run import Run


def main() -> int:
    """Run, report, answer the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the workload and the faults")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--window", type=int, default=40, help="transactions between two faults")
    parser.add_argument("--only", default="", help="only faults with this in their name, to look into one")
    parser.add_argument("--keep", action="store_true", help="keep the folder when all is right, too")
    options = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    report = Run(options.seed, options.faults, options.workers, options.window, options.only, options.keep).report(say)
    print(json.dumps(report.value))
    return 0 if report.right else 1


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
