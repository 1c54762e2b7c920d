"""`millrace resume`: the workers go on with a table that they paused."""

import time
from typing import Any

from millrace.repo import Repo, UnknownTable
from millrace.wiring import producer
from millrace.workers import running_workers
from streams.control import ask_to_resume


def resume_table(repo: Repo, table: str, wait: float) -> dict[str, Any]:
    """Ask all workers of the group, and wait up to `wait` seconds for those of this machine that have paused it.

    `resumed` names by process those that say they went on, `silent` those that answer and did not, `gone` those that
    answer no more. Raises `UnknownTable` and `BrokerUnavailable`.
    """
    captured = {declared.topic for declared in repo.declared()}
    if table not in captured:
        raise UnknownTable(table, captured)
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
