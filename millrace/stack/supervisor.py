"""The stack in the foreground: watched while it runs, stopped when its command ends."""

import threading
from collections.abc import Callable

from millrace.stack.signals import ending_sets
from millrace.stack.stack import ServiceStatus, Stack

INTERVAL = 0.5
"""Seconds between two looks at the processes."""


def supervise(stack: Stack, stop: threading.Event, on_event: Callable[[str], None] = print) -> list[str]:
    """Watch a running stack until `stop` is set or a signal asks for the end, then stop it and all its processes.

    A service that is dead at two looks is reported with the last lines of its log. It is not started again by
    itself: a database that died has a reason, and a silent restart would hide it; `millrace up` does it. The others
    run on. Ends by itself when another command stopped the stack.

    Returns:
        The services that died, in that order.
    """
    died: list[str] = []
    seen: set[int | None] = set()
    mourned: set[int | None] = set()
    # The signals stay handled while it is stopped: a second, impatient one does not leave half of it behind.
    with ending_sets(stop):
        try:
            while not stop.wait(INTERVAL):
                statuses = stack.status()
                if all(status.state == "stopped" for status in statuses):
                    on_event("the stack was stopped by another command")
                    break
                dead = [status for status in statuses if status.state == "dead"]
                # One that another command stops is gone for a moment before that command has noted it.
                for status in dead:
                    if status.pid in seen and status.pid not in mourned:
                        mourned.add(status.pid)
                        died.append(status.name)
                        on_event(obituary(status))
                seen = {status.pid for status in dead}
        finally:
            stack.down(on_event)
    return died


def obituary(status: ServiceStatus) -> str:
    """What is said of a dead service: that it died, its last words, and what to do."""
    lines = "\n".join(f"    {line}" for line in status.last_lines)
    return (
        f"{status.name} (pid {status.pid}) died. `millrace up` starts it again, over its data.\n"
        f"  the end of {status.log}:\n{lines}"
    )
