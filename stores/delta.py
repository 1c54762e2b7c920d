"""The lake as Delta tables, in a folder or an object store, by delta-rs (https://delta-io.github.io/delta-rs/)."""

import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from stores.errors import StoreRefused, StoreUnavailable
from stores.lake import (
    STORE,
    VIEW_TYPES,
    AppendResult,
    CompactedByAnother,
    Snapshot,
    TableMissing,
    TopicPartition,
)
from stores.lake_schema import agreed_schema, check_name, conform, fresh_rows, is_name, statistics, stored_schema

CHECKPOINT_INTERVAL = 50
"""Commits between two checkpoints of a table's log; a handle lives as long, for its commits cost more the
longer the log it has followed (measured with deltalake 1.6.6: 8 ms grow to 60 ms within 400 commits)."""

LOG_RETENTION = "delta.logRetentionDuration"

DEFAULTS: Mapping[str, str] = {
    "delta.checkpointInterval": str(CHECKPOINT_INTERVAL),
    # On a local disk each log file costs every commit 14 us, so the log keeps minutes, not days. Nothing is
    # lost by it: the tables are append-only, and their past is in their rows.
    LOG_RETENTION: "interval 2 minutes",
    "delta.enableExpiredLogCleanup": "true",
    # Every checkpoint remembers what was replaced for so long: 3,600 files an hour at a flush a second, and each costs
    # it 10 us. `vacuum` looks for them in the folder, and of those that the log has forgotten it knows when they were
    # written.
    "delta.deletedFileRetentionDuration": "interval 1 hour",
    # delta.setTransactionRetentionDuration stays unset, so application transactions never expire.
}

REWRITER = "millrace.rewriter"
"""Property: who rewrites files of the table, a number of its own, and until when others should leave it to that one
(seconds since the epoch).

delta-rs (1.6.6) lets two processes rewrite the same files at once, after which their rows stand twice. But it refuses a
commit if the table's properties have changed since it was opened. So whoever rewrites sets this property first, and
opens the table then: of two, the one that set it earlier either had committed by the time the other one opened the
table, or is refused. The time is a courtesy: without it two would go on refusing each other."""

LONG_LOG = "interval 1 day"
"""The log's retention while files are rewritten: the commit of that has to see all that came since it began."""

REWRITE_SECONDS = 600.0
"""How long a compaction may take before others begin their own, after which it is refused."""

_LATE_SECONDS = 60.0
"""A commit that took longer is looked for: another's checkpoint may have cut its place from the log meanwhile, which it
then takes as if it were free, and nobody sees it there. Half of what the log keeps."""

_ATTEMPTS = 5

_T = TypeVar("_T")


@dataclass(slots=True)
class _Handle:
    """An open table. `offsets` caches application transactions of exactly this version of the table: a
    later commit of the same app_id makes ours conflict, so the cache cannot be wrong unnoticed."""

    table: DeltaTable
    opened: int
    schema: pa.Schema
    offsets: dict[str, int | None] = field(default_factory=dict)

    def next_offset(self, app_id: str) -> int | None:
        if app_id not in self.offsets:
            self.offsets[app_id] = self.table.transaction_version(app_id)
        return self.offsets[app_id]

    @property
    def worn(self) -> bool:
        return bool(self.table.version() - self.opened >= CHECKPOINT_INTERVAL)


class DeltaLake:
    """The lake under a folder or an object store URL; thread-safe. See `Lake`.

    `root` is never created, so that a volume that is not mounted is `StoreUnavailable` and not an empty lake.
    `storage_options` are delta-rs' own (AWS_ACCESS_KEY_ID, ...).
    """

    def __init__(self, root: str, storage_options: Mapping[str, str] | None = None) -> None:
        root = root.removeprefix("file://").rstrip("/")
        self._options = dict(storage_options or {})
        self._folder = None if "://" in root else Path(root).absolute()
        self.root = str(self._folder or root)
        self._handles: dict[str, _Handle] = {}
        self._locks: dict[str, threading.RLock] = {}
        self._lock = threading.Lock()

    def ping(self) -> None:
        self._list("")

    def tables(self) -> tuple[str, ...]:
        names = (name for kind in self._list("") for name in self._list(kind))
        return tuple(sorted(name for name in names if is_name(name) and self.exists(name)))

    def exists(self, name: str) -> bool:
        self._check_root()
        try:
            return bool(DeltaTable.is_deltatable(self._uri(name), self._options))
        except (DeltaError, OSError) as error:
            raise self._unavailable(name, error) from error

    def create(self, name: str, schema: pa.Schema, properties: Mapping[str, str]) -> None:
        with self._guard(name):
            for attempt in range(_ATTEMPTS):
                self._check_root()
                try:
                    if self.exists(name):
                        self._agree(name, schema, properties)
                    else:
                        DeltaTable.create(
                            self._uri(name),
                            stored_schema(schema, name),
                            configuration={**DEFAULTS, **statistics(schema), **properties},
                            storage_options=self._options,
                            raise_if_key_not_exists=False,
                        )
                    return
                except (DeltaError, OSError) as error:
                    # Another process created or changed it at the same time: look again.
                    failure = error
                    self._handles.pop(name, None)
                    _pause(attempt)
            raise self._unavailable(name, failure) from failure

    def describe(self, name: str, properties: Mapping[str, str]) -> None:
        try:
            self._set(name, properties)
        except (DeltaError, OSError) as error:
            raise self._unavailable(name, error) from error

    def append(self, name: str, rows: pa.Table, offsets: Mapping[TopicPartition, int]) -> AppendResult:
        def write(handle: _Handle) -> AppendResult:
            stored = {place: handle.next_offset(_app_id(*place)) for place in offsets}
            fresh = fresh_rows(rows, offsets, stored, name)
            ahead = _ahead(offsets, stored)
            if fresh.num_rows or ahead:
                self._commit(handle, name, fresh, ahead)
            else:
                self._handles[name] = handle
            return AppendResult(fresh.num_rows, rows.num_rows - fresh.num_rows)

        return self._retried(name, write)

    def append_once(self, name: str, rows: pa.Table, job: str, number: int) -> bool:
        def write(handle: _Handle) -> bool:
            if (handle.next_offset(job) or 0) >= number:
                self._handles[name] = handle
                return False
            self._commit(handle, name, rows, {job: number})
            return True

        return self._retried(name, write)

    def commits(self, name: str, job: str) -> int:
        with self._guard(name):
            self._handles[name] = handle = self._open(name)
            return handle.next_offset(job) or 0

    def advance(self, name: str, offsets: Mapping[TopicPartition, int]) -> None:
        def write(handle: _Handle) -> None:
            ahead = _ahead(offsets, {place: handle.next_offset(_app_id(*place)) for place in offsets})
            if ahead:
                self._commit(handle, name, handle.schema.empty_table(), ahead)
            else:
                self._handles[name] = handle

        self._retried(name, write)

    def replace(self, name: str, rows: pa.Table) -> None:
        uri = self._uri(name)
        with self._guard(name):
            self._check_root()
            self._handles.pop(name, None)
            try:
                write_deltalake(
                    uri,
                    rows.cast(stored_schema(rows.schema, name)),
                    mode="overwrite",
                    schema_mode="overwrite",
                    configuration=DEFAULTS,
                    storage_options=self._options,
                )
            except (DeltaError, OSError) as error:
                raise self._unavailable(name, error) from error

    def next_offset(self, name: str, topic: str, partition: int) -> int | None:
        with self._guard(name):
            self._handles[name] = handle = self._refreshed(name)
            try:
                return handle.next_offset(_app_id(topic, partition))
            except (DeltaError, OSError) as error:  # it reads the log, which may have gone since
                raise self._unavailable(name, error) from error

    def snapshot(self, name: str) -> Snapshot:
        filesystem = None  # delta-rs' own, for object stores
        if self._folder is not None:
            filesystem = pafs.SubTreeFileSystem(str(self._folder / name), pafs.LocalFileSystem())
        with self._following(name) as table:
            try:
                data = table.to_pyarrow_dataset(filesystem=filesystem)
                properties = table.metadata().configuration
            except DeltaProtocolError as error:
                raise StoreRefused(
                    f"the lake's table {name} uses a Delta feature that this reader does not follow ({_words(error)}):"
                    " write it without deletion vectors and column mapping"
                ) from error
            except (DeltaError, OSError) as error:
                raise self._unavailable(name, error) from error
            return Snapshot(name, table.version(), data.schema, properties, data)

    def added(self, name: str, version: int) -> Snapshot:
        now = self.snapshot(name)
        try:
            before = DeltaTable(self._uri(name), version=version, storage_options=self._options).file_uris()
        except (DeltaError, OSError):
            return now  # the log has forgotten that version
        known = {_file_name(uri) for uri in before}
        files = [fragment for fragment in now.data.get_fragments() if _file_name(fragment.path) not in known]
        data = ds.FileSystemDataset(files, now.data.schema, now.data.format, now.data.filesystem)
        return replace(now, data=data)

    def properties(self, name: str) -> Mapping[str, str]:
        with self._following(name) as table:
            configuration: Mapping[str, str] = table.metadata().configuration
            return configuration

    def version(self, name: str) -> int:
        with self._following(name) as table:
            return int(table.version())

    def files(self, name: str) -> int:
        with self._guard(name):
            self._handles[name] = handle = self._handles.get(name) or self._open(name)
            try:
                return len(handle.table.file_uris())  # their statistics would cost a hundred times as much
            except (DeltaError, OSError) as error:
                raise self._unavailable(name, error) from error

    def scan(
        self, name: str, columns: list[str] | None = None, filter: ds.Expression | None = None
    ) -> pa.RecordBatchReader:
        return self.snapshot(name).rows(columns, filter)

    def compact(self, name: str, *, look_inside: bool = False) -> int:
        if self._rewritten_by_another(name):
            raise CompactedByAnother(f"{self.root}/{name}")
        try:
            table = self._claimed(name, time.time() + REWRITE_SECONDS).table
            merged = int(table.optimize.compact(max_concurrent_tasks=1)["numFilesRemoved"])
            if look_inside and self._written_in_views(name):
                merged += int(table.optimize.z_order([table.schema().fields[0].name])["numFilesRemoved"])
            self._release(name)
        except CommitFailedError as error:
            raise CompactedByAnother(f"{self.root}/{name}") from error
        except (DeltaError, OSError) as error:
            raise self._unavailable(name, error) from error
        return merged

    def _written_in_views(self, name: str) -> bool:
        """Whether another program wrote files that cannot be searched: the whole table is written anew, in an order,
        for a merge leaves files that are large enough as they are."""
        files = self.snapshot(name).data.get_fragments()
        return any(str(field.type) in VIEW_TYPES for file in files for field in file.physical_schema)

    def vacuum(self, name: str, retention: timedelta) -> int:
        hours = int(retention.total_seconds() // 3600)
        table = self._open(name).table
        try:
            # In full: what the log has forgotten, too.
            deleted = table.vacuum(retention_hours=hours, dry_run=False, enforce_retention_duration=False, full=True)
        except (DeltaError, OSError) as error:
            raise self._unavailable(name, error) from error
        return len(deleted)

    def _retried(self, name: str, write: Callable[[_Handle], _T]) -> _T:
        """Do one write; after a conflict, or a failure that may have been committed after all, look again.

        The handle is out of `_handles` while it writes, so that after any failure the table is opened anew.
        """
        with self._guard(name):
            for attempt in range(_ATTEMPTS):
                self._check_root()
                handle = self._handles.pop(name, None) or self._open(name)
                try:
                    return write(handle)
                except (DeltaError, OSError) as error:
                    failure = error
                    if attempt and not isinstance(error, CommitFailedError):
                        break
                    _pause(attempt)
            raise self._unavailable(name, failure) from failure

    @contextmanager
    def _following(self, name: str) -> Iterator[DeltaTable]:
        """The table as of its newest commit, for this thread alone until the end of the block; opened anew the next
        time if the block fails."""
        with self._guard(name):
            handle = self._refreshed(name)
            yield handle.table
            self._handles[name] = handle

    def _guard(self, name: str) -> threading.RLock:
        with self._lock:
            return self._locks.setdefault(name, threading.RLock())

    def _uri(self, name: str) -> str:
        check_name(name)
        return f"{self.root}/{name}"

    def _check_root(self) -> None:
        if self._folder is not None and not self._folder.is_dir():
            raise StoreUnavailable(STORE, f"the folder {self.root} does not exist: create it, or mount it")

    def _refreshed(self, name: str) -> _Handle:
        """The table as of its newest commit; to follow an open one costs a tenth of opening it."""
        handle = self._handles.pop(name, None)
        if handle is None or handle.worn or not self.exists(name):
            return self._open(name)
        before = handle.table.version()
        try:
            handle.table.update_incremental()
        except (DeltaError, OSError):
            return self._open(name)  # its log was cleaned up, or it was made anew
        if handle.table.version() == before:
            return handle
        return _Handle(handle.table, handle.opened, pa.schema(handle.table.schema().to_arrow()))

    def _open(self, name: str) -> _Handle:
        uri = self._uri(name)
        self._check_root()
        try:
            table = DeltaTable(uri, storage_options=self._options)
        except TableNotFoundError as error:
            raise TableMissing(name, self.root) from error
        except (DeltaError, OSError) as error:
            raise self._unavailable(name, error) from error
        return _Handle(table, table.version(), pa.schema(table.schema().to_arrow()))

    def _agree(self, name: str, schema: pa.Schema, properties: Mapping[str, str]) -> None:
        handle = self._open(name)
        stored = handle.table.metadata().configuration
        lacking = {k: v for k, v in {**DEFAULTS, **statistics(handle.schema)}.items() if k not in stored}
        if lacking:  # it was made by an earlier version
            self._set(name, lacking)
            handle = self._open(name)
        merged = agreed_schema(handle.schema, handle.table.metadata().configuration, schema, properties, name)
        if any(not merged.field(i).type.equals(column.type) for i, column in enumerate(handle.schema)):
            handle = self._claimed(name, until=0.0)
            stored = handle.table.metadata().configuration
            self._rewrite(handle, name, agreed_schema(handle.schema, stored, schema, properties, name))
            return
        added = [merged.field(i) for i in range(len(handle.schema), len(merged))]
        if added:
            handle.table.alter.add_columns(Schema.from_arrow(pa.schema(added)).fields)
            self._handles.pop(name, None)

    def _rewrite(self, handle: _Handle, name: str, schema: pa.Schema) -> None:
        """Give the table wider columns, and new ones, in one commit. Its application transactions stay; a file that
        is appended meanwhile stays as it is, and is read as the wider type."""
        rows = handle.table.to_pyarrow_dataset().scanner().to_reader()
        batches = (batch for part in rows for batch in conform(pa.table(part), schema, name).to_batches())
        write_deltalake(
            handle.table,
            pa.RecordBatchReader.from_batches(schema, batches),
            mode="overwrite",
            schema_mode="overwrite",
        )
        self._release(name)

    def _set(self, name: str, properties: Mapping[str, str]) -> None:
        with self._guard(name):
            table = self._open(name).table
            changed = {k: v for k, v in properties.items() if table.metadata().configuration.get(k) != v}
            if changed:
                table.alter.set_table_properties(changed, raise_if_not_exists=False)
                self._handles.pop(name, None)

    def _rewritten_by_another(self, name: str) -> bool:
        claim = self._open(name).table.metadata().configuration.get(REWRITER) or "- 0"
        return float(claim.split()[1]) > time.time()

    def _claimed(self, name: str, until: float) -> _Handle:
        """The table as of after this process set `REWRITER`. Raises `CommitFailedError` if another one has since."""
        mine = f"{uuid.uuid4().hex} {until}"
        self._set(name, {REWRITER: mine, LOG_RETENTION: LONG_LOG})
        handle = self._open(name)
        if handle.table.metadata().configuration.get(REWRITER) != mine:
            raise CommitFailedError("another process has begun to rewrite its files")
        return handle

    def _release(self, name: str) -> None:
        """What was claimed is rewritten. After a failure the next one who claims and rewrites it does so."""
        self._set(name, {REWRITER: "", LOG_RETENTION: DEFAULTS[LOG_RETENTION]})

    def _commit(self, handle: _Handle, name: str, rows: pa.Table, transactions: Mapping[str, int]) -> None:
        rows = conform(rows, handle.schema, name)
        widened = len(rows.schema) > len(handle.schema)
        before, begun = handle.table.version(), (time.monotonic(), time.time())
        write_deltalake(
            handle.table,
            rows,
            mode="append",
            schema_mode="merge" if widened else None,
            commit_properties=CommitProperties(
                app_transactions=[Transaction(app_id, version) for app_id, version in transactions.items()]
            ),
        )
        if max(time.monotonic() - begun[0], time.time() - begun[1]) > _LATE_SECONDS:
            self._find(name, transactions)
        if handle.table.version() > before + 1:
            # Commits of others came between. None raised these app_ids, or ours had failed, but perhaps others.
            handle.offsets.clear()
        handle.offsets.update(transactions)
        if not widened and not handle.worn:
            self._handles[name] = handle

    def _find(self, name: str, transactions: Mapping[str, int]) -> None:
        """Raises `CommitFailedError` unless the table has them."""
        table = self._open(name).table
        if any((table.transaction_version(app_id) or 0) < version for app_id, version in transactions.items()):
            raise CommitFailedError("the log was cut where it was written")

    def _list(self, folder: str) -> list[str]:
        self._check_root()
        try:
            filesystem = pafs.PyFileSystem(DeltaStorageHandler(self.root, self._options))
            found = filesystem.get_file_info(pafs.FileSelector(folder))
            return [info.path for info in found if info.type == pafs.FileType.Directory]
        except (DeltaError, OSError) as error:
            raise self._unavailable(folder, error) from error

    def _unavailable(self, name: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(STORE, f"{self.root}/{name}: {_words(error)}")


def _app_id(topic: str, partition: int) -> str:
    return f"{topic}-{partition}"


def _ahead(offsets: Mapping[TopicPartition, int], stored: Mapping[TopicPartition, int | None]) -> dict[str, int]:
    """The application transactions that raise what is stored; a version never goes back."""
    return {_app_id(*place): offset for place, offset in offsets.items() if offset > (stored[place] or 0)}


def _file_name(path: str) -> str:
    """The last part of a data file's path, which no other file has."""
    return path.rpartition("/")[2]


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, 0.01 * 2**attempt))


def _words(error: Exception) -> str:
    """The error on one line, without the terminal colours and the backtrace that delta-rs puts in."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return " ".join(re.split(r"\n\s*0: ", text)[0].split())
