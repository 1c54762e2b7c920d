"""Workers for chaos: `millrace run` itself, in processes that can be told at which step to die.

`python -m tests.chaos.worker` imports everything once and then forks a process for each line on its standard
input, which runs a command of millrace. So a worker that was killed is back at once, and a backfill is killed at
its work rather than at its imports. It answers with a JSON line for each start and end.

The worker is the real one, wired by `millrace.wiring` to the real stores. Only what is handed to it, its `Parts`,
is watched: after (or before) the call that ends a step, the process kills itself with SIGKILL if its order file
asks for it. Steps, in the order in which a record takes them:

    polled            Consumer.poll returned records
    decoded           a table's records are decoded, checked and made rows of (Tally.took)
    letters_queued    DeadLetters.send
    online_written    FeatureWriter.write returned
    staged            a table's rows wait for the lake (Windows.add)
    letters_durable   DeadLetters.flush returned
    lake_committed    Lake.append returned, one table after the other
    settled           FeatureWriter.decide returned: an event view was decided anew
    offsets_committed Consumer.commit returned

Each has a twin `before_<step>`.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import millrace.commands.stream
import millrace.wiring
import streams.kafka
from millrace import cli
from streams.pipeline import Flows, Outcome
from streams.worker import Parts, Worker, WorkerSettings

STEPS = (
    "polled",
    "decoded",
    "letters_queued",
    "online_written",
    "staged",
    "letters_durable",
    "lake_committed",
    "settled",
    "offsets_committed",
)

SESSION_SECONDS = 6
"""After which a worker that says nothing loses its partitions; the least that a broker allows by default."""

Reach = Callable[[str], None]


class Seam:
    """A part of the worker whose calls are steps. `steps` maps a method to its step."""

    def __init__(self, part: Any, steps: Mapping[str, str], reach: Reach, count: Callable[..., None]) -> None:
        self._part = part
        self._steps = steps
        self._reach = reach
        self._count = count

    def __getattr__(self, name: str) -> Any:
        called = getattr(self._part, name)
        step = self._steps.get(name)
        if step is None:
            return called

        def call(*arguments: Any, **options: Any) -> Any:
            self._reach(f"before_{step}")
            result = called(*arguments, **options)
            if step != "polled" or result:
                self._reach(step)
            self._count(result, *arguments)
            return result

        return call


class Fate:
    """Kills the process when it comes to the step that its order file names for the n-th time since."""

    def __init__(self, orders: Path) -> None:
        self._orders = orders
        self._order: str | None = None
        self._left = 0

    def reach(self, step: str) -> None:
        """The process came to a step."""
        try:
            order = self._orders.read_text()
        except FileNotFoundError:
            return
        if order != self._order:
            self._order, self._left = order, int(order.split()[1])
        if step == order.split()[0]:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Counts:
    """A file of what was kept out: records that the worker or the lake knew already, stale writes that the online
    stores refused."""

    def __init__(self, path: Path) -> None:
        self._file = _appended(path)

    def duplicates(self, result: Any, *_: Any) -> None:
        self._add("duplicates_suppressed", result.duplicates)

    def copies(self, _: None, outcome: Outcome) -> None:
        tombstones = sum(value is None for value in outcome.records.values)
        self._add("duplicates_suppressed", outcome.ignored - tombstones)

    def refused(self, result: Any, *_: Any) -> None:
        self._add("stale_writes_refused", result.refused)

    def _add(self, what: str, count: int) -> None:
        if count:
            os.write(self._file, f"{what} {count}\n".encode())


def nothing(*_: Any) -> None:
    """Nothing to count."""


def watched(parts: Parts, reach: Reach, counts: Counts) -> Parts:
    """The same parts, each call of which that ends a step tells so."""

    def seam(part: Any, count: Callable[..., None] = nothing, **steps: str) -> Any:
        return Seam(part, steps, reach, count)

    return replace(
        parts,
        consumer=seam(parts.consumer, poll="polled", commit="offsets_committed"),
        letters=seam(parts.letters, send="letters_queued", flush="letters_durable"),
        online=seam(seam(parts.online, counts.refused, write="online_written"), decide="settled"),
        lake=seam(parts.lake, counts.duplicates, append="lake_committed"),
        windows=seam(parts.windows, add="staged"),
        tally=seam(parts.tally, counts.copies, took="decoded"),
    )


def run(order: Mapping[str, Any]) -> None:
    """Be the command; never returns."""
    os.setsid()
    log, out = _appended(Path(order["log"])), os.open(order["out"], os.O_WRONLY | os.O_CREAT)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nowhere), (1, out), (2, log)):
        os.dup2(source, target)
    fate, counts = Fate(Path(order["orders"])), Counts(Path(order["counts"]))

    def build(flows: Flows, parts: Parts, settings: WorkerSettings) -> Worker:
        return Worker(flows, watched(parts, fate.reach, counts), settings)

    streams.kafka.CONSUMER["session.timeout.ms"] = 1_000 * SESSION_SECONDS
    millrace.wiring.Worker = build  # type: ignore[assignment, attr-defined]  # what the command makes it by
    sys.argv = ["millrace", *order["arguments"]]
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if code:
            print(f"exit code {end.code}", file=sys.stderr)
    except BaseException:  # noqa: BLE001 -- as the interpreter does at its end
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _appended(path: Path) -> int:
    """A pipe into a file, by a process of its own: what is said is kept while no file of this one may grow."""
    with path.open("ab") as file:
        cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
    assert cat.stdin is not None
    return os.dup(cat.stdin.fileno())


def main() -> None:
    """Fork a command for each line; ends with its standard input."""
    say({"ready": os.getpid()})
    while True:
        readable, _, _ = select.select([0], [], [], 0.05)
        if readable:
            line = sys.stdin.readline()
            if not line:
                return
            order = json.loads(line)
            # Told to stop before it can listen, a command has nothing to finish.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
                run(order)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            say({"started": pid})
        while (ended := reaped()) is not None:
            say({"ended": ended[0], "status": ended[1]})


def reaped() -> tuple[int, int] | None:
    """A child that ended: its id, and its exit code or minus the signal that ended it."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None


def say(message: Mapping[str, Any]) -> None:
    """A line for whoever started this."""
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
