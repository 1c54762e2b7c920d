"""The processes of a run, from outside: workers are started, told to die, killed, frozen, started again; other
commands run beside them."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS = 120.0
DROPPED = "-dac_override,-dac_read_search"
"""The capabilities by which root writes where nobody may (capabilities(7)): without them a folder can be made
unwritable for its owner too."""


def unprivileged(command: list[str]) -> list[str]:
    """The command, as a process that file permissions hold for, even if this is root."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return command
    return ["setpriv", f"--bounding-set={DROPPED}", f"--inh-caps={DROPPED}", *command]


@dataclass(slots=True)
class Process:
    """One process; `wanted` is how it may end, None while it should live. Its results go to `out`, what it says
    to `log`."""

    name: str
    pid: int
    log: Path
    out: Path
    wanted: str | None = None
    code: int | None = None


class Workers:
    """A few named workers; `crashes` are ends that nobody asked for; `died_at_steps` counts those that came to the step
    that they were told to die at."""

    def __init__(self, folder: Path, repo: Path, stack: Path) -> None:
        self._folder = folder
        self._repo = repo
        self._stack = stack
        self._processes: dict[str, Process] = {}
        self._messages: queue.Queue[dict[str, object]] = queue.Queue()
        self._by_pid: dict[int, Process] = {}
        self._starts = 0
        self.crashes: list[str] = []
        self.died_at_steps = 0
        self.counts = folder / "counts"
        self._nursery = subprocess.Popen(
            unprivileged([sys.executable, "-m", "tests.chaos.worker"]),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "nursery.log").open("wb"),
            text=True,
        )
        threading.Thread(target=self._listen, name="workers", daemon=True).start()
        self._messages.get(timeout=120)

    @property
    def names(self) -> list[str]:
        """Of the workers that should be running."""
        return list(self._processes)

    def start(self, worker: str) -> None:
        """Start a worker, if it does not live; does not wait for its partitions."""
        if worker in self._processes and self.alive(worker):
            return
        self._orders(worker).unlink(missing_ok=True)
        self._processes[worker] = self._fork(worker, ("run",))

    def command(self, *arguments: str, killed_after: float | None = None) -> dict[str, Any]:
        """What a command of millrace answers; nothing if it is killed after so many seconds. Exit code 1 is an
        answer too."""
        process = self._fork(arguments[0], arguments)
        process.wanted = "any"
        if not self.wait(lambda: process.code is not None, COMMAND_SECONDS if killed_after is None else killed_after):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            self.wait(lambda: process.code is not None, 10)
        lines = process.out.read_text().splitlines()
        if lines or killed_after is not None:
            return dict(json.loads(lines[-1])) if lines else {}
        words = process.log.read_text(errors="replace")
        raise RuntimeError(f"millrace {' '.join(arguments)} ended with {process.code}:\n{words}")

    def _fork(self, name: str, arguments: Sequence[str]) -> Process:
        self._starts += 1
        log = self._folder / f"{self._starts:03}-{name}.log"
        out = log.with_suffix(".out")
        order = {
            "arguments": [*arguments, "--json", "--repo", str(self._repo), "--stack", str(self._stack)],
            "log": str(log),
            "out": str(out),
            "orders": str(self._orders(name)),
            "counts": str(self.counts),
        }
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(json.dumps(order) + "\n")
        self._nursery.stdin.flush()
        pid = self._messages.get(timeout=30)["started"]
        assert isinstance(pid, int)
        process = self._by_pid[pid] = Process(name, pid, log, out)
        return process

    def alive(self, worker: str) -> bool:
        """Whether the worker's process has not ended."""
        return self._processes[worker].code is None

    def kill(self, worker: str) -> None:
        """SIGKILL, at once."""
        self._signal(worker, signal.SIGKILL, "killed")
        self.wait(lambda: not self.alive(worker), 10)

    def terminate(self, worker: str) -> None:
        """SIGTERM, and wait until it has left its group."""
        self._signal(worker, signal.SIGTERM, "terminated")
        if not self.wait(lambda: not self.alive(worker), 30):
            self.crashes.append(f"{worker} did not end within 30 s of SIGTERM")
            self.kill(worker)

    def freeze(self, worker: str) -> None:
        """SIGSTOP."""
        self._signal(worker, signal.SIGSTOP, None)

    def wake(self, worker: str) -> None:
        """SIGCONT."""
        self._signal(worker, signal.SIGCONT, None)

    def order_death(self, worker: str, step: str, times: int) -> None:
        """Have it kill itself when it comes to the step for the n-th time from now."""
        self._processes[worker].wanted = step
        new = self._orders(worker).with_suffix(".new")
        new.write_text(f"{step} {times}")
        new.replace(self._orders(worker))

    def pid(self, worker: str) -> int:
        """Of its process."""
        return self._processes[worker].pid

    def wait(self, what: Callable[[], bool], timeout: float) -> bool:
        """Whether it came true in time."""
        deadline = time.monotonic() + timeout
        while not what():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """End them all."""
        for worker in self._processes:
            if self.alive(worker):
                self._signal(worker, signal.SIGCONT, "terminated")
                self.terminate(worker)
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        self._nursery.wait(10)

    def counted(self) -> dict[str, int]:
        """What all workers together kept out."""
        totals = {"duplicates_suppressed": 0, "stale_writes_refused": 0}
        for line in self.counts.read_text().splitlines() if self.counts.exists() else ():
            what, count = line.split()
            totals[what] += int(count)
        return totals

    def _orders(self, worker: str) -> Path:
        return self._folder / f"orders-{worker}"

    def _signal(self, worker: str, number: signal.Signals, wanted: str | None) -> None:
        process = self._processes[worker]
        if wanted is not None:
            process.wanted = wanted
        if process.code is None:
            with suppress(ProcessLookupError):  # it ended this moment
                os.kill(process.pid, number)

    def _listen(self) -> None:
        assert self._nursery.stdout is not None
        for line in self._nursery.stdout:
            message = json.loads(line)
            if "ended" not in message:
                self._messages.put(message)
                continue
            process = self._by_pid[message["ended"]]
            orderly = message["status"] in (0, -signal.SIGKILL)
            if process.wanted is None or not (orderly or process.wanted == "any"):
                tail = "\n    ".join(process.log.read_text(errors="replace").splitlines()[-12:])
                self.crashes.append(f"{process.name} ended by itself ({message['status']}): {process.log}\n    {tail}")
            process.code = message["status"]
