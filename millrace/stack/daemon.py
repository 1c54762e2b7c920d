"""Processes that outlive the command which started them, known again by their pid and their birth."""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from millrace.stack.errors import StackError


@dataclass(frozen=True, slots=True)
class Daemon:
    """One started process.

    Attributes:
        pid: its process id, which is also the id of its session and process group.
        birth: tells it from a later process that was given the same pid.
        started: seconds since the epoch.
    """

    pid: int
    birth: str
    started: float


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a process.

    Attributes:
        command: the program and its arguments.
        folder: its working directory.
        log: the file that its output is appended to.
        user: the user to become, which only root can; None to stay.
        environment: its whole environment; no variable of the caller's changes what a service does.
        text: what it reads from its standard input, at most a few lines.
    """

    command: Sequence[str]
    folder: Path
    log: Path
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: {"LC_ALL": "C.UTF-8"})
    text: str = ""


def start(launch: Launch) -> tuple[Daemon, subprocess.Popen[bytes]]:
    """Start a process in a session of its own, so that no terminal's signal and no end of ours reaches it.

    Raises:
        StackError: the program cannot be run.
    """
    with launch.log.open("ab") as log:
        try:
            process = subprocess.Popen(
                launch.command,
                cwd=launch.folder,
                stdin=subprocess.PIPE if launch.text else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=launch.environment,
                user=launch.user,
                group=pwd.getpwnam(launch.user).pw_gid if launch.user else None,
                extra_groups=[] if launch.user else None,
            )
        except OSError as error:
            raise StackError(f"{launch.command[0]} cannot be started: {error}") from error
    if process.stdin:
        # One that died before it read is found by its exit code.
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(launch.text.encode())
    # A process that is dead already has no birth, and nothing alive will ever be taken for it.
    return Daemon(process.pid, birth(process.pid) or "", time.time()), process


def birth(pid: int) -> str | None:
    """When a process began, in a form that no other process with this pid ever has; None when none is alive.

    On Linux the id of the boot and the start time in ticks since it (field 22 of /proc/PID/stat, see
    proc_pid_stat(5)), which no change of the clock moves; elsewhere the creation time. A zombie is not alive.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if not psutil.LINUX:
            return f"{process.create_time():.2f}"
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{ticks}"


def is_alive(daemon: Daemon) -> bool:
    """Whether the very process that was started still runs."""
    return birth(daemon.pid) == daemon.birth


def listens(daemon: Daemon, port: int) -> bool:
    """Whether the process itself accepts connections on a TCP port: an answer there may be another program's."""
    try:
        sockets = psutil.Process(daemon.pid).net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return False
    return any(socket.status == psutil.CONN_LISTEN and socket.laddr.port == port for socket in sockets)


def resident_bytes(daemon: Daemon) -> int | None:
    """Resident memory of the process and its descendants, pages they share counted in each; None when dead."""
    try:
        process = psutil.Process(daemon.pid)
        family = [process, *process.children(recursive=True)]
        return sum(int(member.memory_info().rss) for member in family)
    except psutil.NoSuchProcess:
        return None


def stop(daemon: Daemon, orderly: signal.Signals, patience: float) -> bool:
    """End a process and all that it started; True when it ended by itself within `patience` seconds.

    The signal `orderly` goes to the process alone, which ends its children in its own order. What is left
    after that is killed: its process group, and its descendants in other groups.

    Raises:
        StackError: the process belongs to another user.
    """
    if not is_alive(daemon):
        return True
    try:
        family = psutil.Process(daemon.pid).children(recursive=True)
        os.kill(daemon.pid, orderly)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return True
    except PermissionError as error:
        raise StackError(f"process {daemon.pid} belongs to another user: stop it as that user") from error
    ended = _wait(daemon, patience)
    if not ended:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(daemon.pid).children(recursive=True)
        with suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
    _, orphans = psutil.wait_procs(family, timeout=1.0 if ended else 0.0)
    for orphan in orphans:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()
    psutil.wait_procs(orphans, timeout=5.0)
    return _wait(daemon, 5.0) and ended


def _wait(daemon: Daemon, seconds: float) -> bool:
    """Wait for the end of a process; False when it still lives after that time."""
    deadline = time.monotonic() + seconds
    while is_alive(daemon):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
