"""A worker starts anew when something else is declared than it began with: tables with their columns and types, views,
functions, a contract, which tables are captured, what is personal."""

import ast
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from socket import gethostname

import pyarrow as pa
from feast.repo_operations import get_repo_files

from stores.errors import StoreUnavailable
from stores.lake import Lake, property_of
from streams.drift import applied_table
from streams.personal import PersonalColumns
from streams.views import StreamView

log = logging.getLogger(__name__)

SECONDS = 1.0

CLOSE_SECONDS = 1.0

DECLARED_PROPERTY = "millrace.declared"
"""Property of the lake's `declared/<project>`, which has no rows: a digest of what the last apply found declared."""

TAKEN_UP_PROPERTY = "millrace.taken_up"
"""Property of the same: "false" while an apply has the registry and the tables changed that the digest is of."""


def digest(
    folder: Path,
    views: Sequence[StreamView],
    contracts: Mapping[str, str],
    personal: Mapping[str, PersonalColumns],
) -> str:
    """The same for the same: with the versions of the contracts and the personal columns by topic, the views with their
    tables and, if one of them has a function, the modules in the folder, which this may be made of, however they are
    laid out and commented."""
    told = sorted(repr((view.table, view.view, view.event_time, sorted(view.renames.items()))) for view in views)
    functions = any(view.transform is not None for view in views)
    code = [ast.dump(ast.parse(path.read_bytes())) for path in get_repo_files(folder)] if functions else []
    hidden = sorted((topic, sorted(found.columns), found.every) for topic, found in personal.items() if found)
    declared = repr((sorted(contracts.items()), told, code, hidden))
    return hashlib.blake2b(declared.encode(), digest_size=8).hexdigest()


def begin(lake: Lake, project: str) -> bool:
    """Note that what workers go by is being changed; returns whether an earlier apply was cut off at that. Raises
    `StoreUnavailable`."""
    lake.create(_table(project), pa.schema([("project", pa.string())]), {})
    cut_off = property_of(lake, _table(project), TAKEN_UP_PROPERTY) == "false"
    lake.describe(_table(project), {TAKEN_UP_PROPERTY: "false"})
    return cut_off


def note(lake: Lake, project: str, declared: str) -> None:
    """Note the digest of what a project declares, once everything that workers go by is as it says. Raises
    `StoreUnavailable`."""
    lake.describe(_table(project), {DECLARED_PROPERTY: declared, TAKEN_UP_PROPERTY: "true"})


def noted(lake: Lake, project: str) -> str | None:
    """What the last apply noted, None before the first. To be read before what it declared: of an apply between the
    two a watch then tells. Raises `StoreUnavailable`."""
    return property_of(lake, _table(project), DECLARED_PROPERTY)


def client_id(project: str, declared: str | None) -> str:
    """What the consumer group knows this process by, a worker of the project that goes by the digest."""
    return f"millrace.{project}.{process_name(os.getpid())}.{declared}"


def process_name(pid: int | str) -> str:
    """A process of this machine, for people."""
    return f"{gethostname()}.{pid}"


def gone_by(project: str, client_id: str) -> tuple[str, str] | None:
    """The process of a member of the group, as `process_name`, and the digest that it goes by; None of one that does
    not tell, of an earlier version, and of another project's in the same group."""
    if not client_id.startswith(f"millrace.{project}."):
        return None
    process, _, declared = client_id.removeprefix(f"millrace.{project}.").rpartition(".")
    return process, declared


class AppliedWatch:
    """Looks every `seconds`, on a thread of its own, whether what is declared is still what `began` tells, and sets
    `stop` if not; `seen` then says so. A topic that is `held` need only be applied again."""

    def __init__(
        self,
        lake: Lake,
        project: str,
        began: str | None,
        topics: Collection[str],
        stop: threading.Event,
        held: Callable[[], Collection[str]],
        seconds: float = SECONDS,
    ) -> None:
        self._held = held
        self._lake = lake
        self._project = project
        self._began = began
        self._applied = {topic: applied_table(lake, topic)[1] for topic in topics}
        self._stop = stop
        self._seconds = seconds
        self.seen = False
        self._thread = threading.Thread(target=self._run, name="applied", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking, and set `stop`. A look under way is waited for, but not long."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def _changed(self) -> str | None:
        """What changed, for people."""
        for topic in self._held():
            if applied_table(self._lake, topic)[1] != self._applied[topic]:
                return f"{topic} was applied again"
        return None if noted(self._lake, self._project) == self._began else "something else is declared"

    def _run(self) -> None:
        while not self.seen:  # at once: while the worker was made, too, something may have been applied
            try:
                changed = self._changed()
            except StoreUnavailable:
                changed = None  # the worker itself waits for the lake, aloud
            if changed is not None:
                self.seen = True
                log.info("%s: the worker starts anew", changed, extra={"event": "applied"})
                self._stop.set()
            elif self._stop.wait(self._seconds):
                return


def _table(project: str) -> str:
    return f"declared/{project}"
