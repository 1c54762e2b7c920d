"""`millrace resume`: the workers go on with a table that they paused."""

import difflib
import time
from typing import Any

from millrace.repo import Repo
from millrace.status import running_workers
from millrace.wiring import producer
from streams.control import ask_to_resume


class UnknownTable(Exception):
    """No view reads a table of that name."""


def resume_table(repo: Repo, table: str, wait: float) -> dict[str, Any]:
    """Ask all workers of the group, and wait up to `wait` seconds for those of this machine that have paused it.

    `resumed` names by process those that say they went on, `silent` those that answer and did not, `gone` those that
    answer no more. Raises `UnknownTable` and `BrokerUnavailable`.
    """
    tables = sorted({declared.topic for declared in repo.declared()})
    if table not in tables:
        close = difflib.get_close_matches(table, tables, n=1)
        instead = f"did you mean {close[0]}?" if close else f"there are {', '.join(tables)}"
        raise UnknownTable(f"no view reads a table {table}; {instead}")
    before = {
        name: _times(state, table)
        for name, state in running_workers(repo.workers_folder).items()
        if table in state["paused"]
    }
    ask_to_resume(producer(repo), repo.control_topic, table)
    deadline = time.monotonic() + wait
    waited_for, now = set(before), {}
    while waited_for and time.monotonic() < deadline:
        time.sleep(0.05)
        now = running_workers(repo.workers_folder)
        waited_for -= {name for name in waited_for & set(now) if _times(now[name], table) != before[name]}
    return {
        "table": table,
        "resumed": sorted(set(before) - waited_for),
        "silent": sorted(waited_for & set(now)),
        "gone": sorted(waited_for - set(now)),
    }


def _times(state: dict[str, Any], table: str) -> int:
    """How often a worker went on with the table; a table that is bad still is paused again within moments."""
    times: int = state["resumed"].get(table, 0)
    return times
