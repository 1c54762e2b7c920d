"""One code path: records or lake rows in, accepted changes and feature rows out.

Live stream, replay, backfill and rebuild all come through `process`, so training and serving cannot differ.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.table import Table
from stores.rows import FeatureRows
from streams.changes import TIMESTAMP, Changes, plain
from streams.decode import Decoded, decode_records
from streams.embed import Embedded, KnownVectors, Made, embed
from streams.embedders import Embedder
from streams.letters import REPLAY_OF, Rejection, Stage
from streams.messages import Records
from streams.personal import HIDDEN, NOTHING, PersonalColumns
from streams.snapshots import SnapshotBase, no_base, placed
from streams.views import LIVE, Projected, StreamView, Unprojectable, project
from validation.contract import Contract, Verdict
from validation.errors import EvaluationFailed
from validation.rule import Reason

READ_OP = b'"op":"r"'
"""In an envelope of a snapshot's row, as Kafka Connect's JSON converter writes it."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Everything declared of one topic: its table, its contract, the views made of it, and which of its columns are
    personal data."""

    table: Table
    contract: Contract
    views: tuple[StreamView, ...]
    personal: PersonalColumns = NOTHING

    @property
    def before(self) -> tuple[str, ...]:
        """The columns whose old values the event views need, to see a row leave an entity; with one of the primary
        key, which tells whether there are any."""
        columns = {c: None for v in self.views if v.view.kind == "event" for c in v.key_columns}
        return tuple({**dict.fromkeys(self.table.primary_key[:1]), **columns}) if columns else ()

    @property
    def moving(self) -> tuple[str, ...]:
        """The columns of which a new value takes a row to another entity of an event view. A new primary key makes
        another row of it."""
        return tuple(column for column in self.before if column not in self.table.primary_key)

    @property
    def goes_by_commits(self) -> bool:
        """Whether an event view takes the row for the newest that was committed last."""
        return any(v.view.kind == "event" and v.event_time is None for v in self.views)

    @property
    def embeds(self) -> bool:
        """Whether a view has a vector."""
        return any(v.view.vector is not None for v in self.views)


Flows = Mapping[str, Flow]
"""By topic."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The changes that every check and view took, with the rows of each view; `bad` holds the others
    by their position among the changes that came in. `kept[i]` is the position that change `i` had among
    these (of an `Outcome`: among its records). `late[i]` says that the lake knows newer ones of that row, whose rows
    are served: those of change `i` are for the lake alone."""

    changes: Changes
    projected: tuple[tuple[StreamView, Projected], ...]
    kept: np.ndarray
    bad: Mapping[int, tuple[Stage, list[str]]]
    warnings: Mapping[str, int]
    late: np.ndarray

    def without(self, dropped: np.ndarray) -> "Accepted":
        """The same without the changes marked in the mask `dropped`, nor the rows made of them."""
        kept = np.flatnonzero(~dropped)
        place = np.cumsum(~dropped) - 1
        projected = tuple((v, p.only(~dropped[p.positions], place)) for v, p in self.projected)
        return replace(
            self, changes=self.changes.take(kept), projected=projected, kept=self.kept[kept], late=self.late[kept]
        )

    def at(self, lsns: np.ndarray) -> "Accepted":
        """The same at other LSNs, one a change."""
        projected = tuple((v, p.at(lsns)) for v, p in self.projected)
        return replace(self, changes=self.changes.at(lsns), projected=projected)

    def timed(self, times: np.ndarray) -> "Accepted":
        """The same at other commit times (microseconds since the epoch), one a change."""
        moments = pa.array(times, TIMESTAMP)
        projected = tuple((view, p.timed(view, moments)) for view, p in self.projected)
        return replace(self, changes=self.changes.timed(moments), projected=projected)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a `Records`: each record is accepted, rejected or, counted, ignored. `truncated` has
    the LSNs of the truncates that the rows take account of (`streams.truncate`), `base` is that of the snapshot that
    has rows among the records, if one has (`streams.snapshots`); then `begun` has for the records of an initial one
    when that was begun, in microseconds since the epoch, and 0 for all others."""

    records: Records
    flow: Flow
    accepted: Accepted
    rejections: Sequence[Rejection]
    ignored: int
    truncated: tuple[int, ...] = ()
    base: int | None = None
    begun: npt.NDArray[np.int64] | None = None

    def begun_of_changes(self) -> npt.NDArray[np.int64]:
        """`begun` of the accepted changes."""
        kept = self.accepted.kept
        return np.zeros(len(kept), np.int64) if self.begun is None else self.begun[kept]

    def rows(self) -> list[FeatureRows]:
        """The feature rows, view by view."""
        return [projected.rows for _, projected in self.accepted.projected]

    def served(self) -> list[FeatureRows]:
        """Those of the feature rows that are served, view by view."""
        late = self.accepted.late
        return self._made_by(~late) if late.any() else self.rows()

    def unserved(self) -> list[FeatureRows]:
        """Those that are not, view by view, if there are any."""
        late = self.accepted.late
        return self._made_by(late) if late.any() else []

    def _made_by(self, changes: np.ndarray) -> list[FeatureRows]:
        """The feature rows of the changes that are marked."""
        return [
            FeatureRows(p.rows.view, p.rows.table.filter(pa.array(changes[p.positions])))
            for _, p in self.accepted.projected
        ]

    def has_truncates(self) -> bool:
        """Whether a TRUNCATE is among the changes."""
        return bool(pc.any(pc.equal(self.accepted.changes.rows["_op"], "t")).as_py())

    def has_replays(self) -> bool:
        """Whether a replayed letter is among the records."""
        return any(REPLAY_OF in headers for headers in self.records.headers.values())


Timed = Callable[[str], AbstractContextManager[None]]
"""Measures how long a stage, which it is given the name of, takes."""


def untimed(stage: str) -> AbstractContextManager[None]:
    """Measures nothing."""
    return nullcontext()


Embedding = Callable[["Outcome", Made], "Outcome"]
"""Fills the vectors of an outcome's rows. What is made stands in the second argument, for the next try, if it raises
`EmbedderUnavailable` or `StoreUnavailable`."""


def embedding(embedder: Embedder, known: KnownVectors, count: Callable[[Embedded], None]) -> Embedding:
    """The embedding step with its model and the store of the vectors it made before."""

    def fill(outcome: Outcome, made: Made) -> Outcome:
        accepted, rejections = outcome.accepted, list(outcome.rejections)
        while True:
            fills: list[Embedded] = []
            try:
                projected = [
                    (v, _embedded(v, p, accepted.changes, embedder, known, made, fills)) for v, p in accepted.projected
                ]
            except Unprojectable as error:
                rejections += [
                    Rejection(int(accepted.kept[i]), "transform", tuple(why)) for i, why in error.bad.items()
                ]
                dropped = np.zeros(len(accepted.changes), bool)
                dropped[list(error.bad)] = True
                accepted = accepted.without(dropped)
            else:
                for filled in fills:
                    count(filled)
                return replace(outcome, accepted=replace(accepted, projected=tuple(projected)), rejections=rejections)

    return fill


def _embedded(
    view: StreamView,
    projected: Projected,
    changes: Changes,
    embedder: Embedder,
    known: KnownVectors,
    made: Made,
    fills: list[Embedded],
) -> Projected:
    if view.view.vector is None:
        return projected
    filled = embed(projected, changes, embedder, known, made)
    fills.append(filled)
    return filled.projected


def take(records: Records, flow: Flow, max_bytes: int, timed: Timed = untimed, base: SnapshotBase = no_base) -> Outcome:
    """Decode the records of one topic and `process` them; `base` is asked where snapshots stand, if one has rows
    among them."""
    with timed("decode"):
        decoded = decode_records(records, flow.table, flow.before, max_bytes)
    start = base() if _reads(decoded, records) else None
    accepted = process(placed(decoded.changes, decoded.positions, records, start), flow, timed)
    rejections = [
        *decoded.rejections,
        *(Rejection(int(decoded.positions[i]), stage, tuple(why)) for i, (stage, why) in accepted.bad.items()),
    ]
    rejections.sort(key=lambda rejection: rejection.position)
    accepted = replace(accepted, kept=decoded.positions[accepted.kept])
    begun = None if start is None else _begun(decoded, records)
    return Outcome(records, flow, accepted, rejections, decoded.ignored, base=start, begun=begun)


def _begun(decoded: Decoded, records: Records) -> npt.NDArray[np.int64]:
    """See `Outcome`. To all rows of a table Debezium gives the time of the transaction in which it reads them; those of
    an incremental snapshot have no LSN."""
    rows = decoded.changes.rows
    initial = np.asarray(pc.and_(pc.equal(rows["_op"], "r"), pc.greater(rows["_lsn"], 0)))
    begun = np.zeros(len(records), np.int64)
    begun[decoded.positions[initial]] = np.asarray(rows["_commit_ts"].cast(pa.int64()))[initial]
    return begun


def _reads(decoded: Decoded, records: Records) -> bool:
    """Whether a snapshot read any of these, those that cannot be decoded included."""
    rejected = (records.values[rejection.position] for rejection in decoded.rejections)
    read = pc.any(pc.equal(decoded.changes.rows["_op"], "r")).as_py()
    return bool(read) or any(READ_OP in (value or b"") for value in rejected)


def process(changes: Changes, flow: Flow, timed: Timed = untimed) -> Accepted:
    """Check the changes against the contract and make the rows of every view.

    A change that fails a critical expectation, or that one view cannot take, is rejected as a whole: no
    view and not the lake get it.
    """
    bad: dict[int, tuple[Stage, list[str]]] = {}
    with timed("contract"):
        warnings = _check(changes, flow, bad)
    projected: list[tuple[StreamView, Projected]] = []
    while True:
        good = np.ones(len(changes), bool)
        good[list(bad)] = False
        kept = np.flatnonzero(good)
        remaining = changes.take(kept) if bad else changes
        projected.clear()
        with timed("views"):
            failed = _project(remaining, flow.views, projected)
        if not failed:
            return Accepted(remaining, tuple(projected), kept, bad, warnings, np.zeros(len(remaining), bool))
        bad.update({int(kept[i]): ("transform", why) for i, why in failed.items()})


def _check(changes: Changes, flow: Flow, bad: dict[int, tuple[Stage, list[str]]]) -> Counter[str]:
    """Put the rows that fail a critical expectation into `bad`; deletes and truncates bring no values to check."""
    live = np.flatnonzero(pc.is_in(changes.rows["_op"], LIVE))
    if not len(live):
        return Counter()
    rows = changes.rows if len(live) == len(changes) else changes.rows.take(live)
    verdict = _verdict(rows, _rounds(rows, changes.table, flow.contract), flow)
    for i, reasons in verdict.critical().items():
        bad[int(live[i])] = ("contract", [_words(reason) for reason in reasons])
    return Counter({f.rule.id: f.count for f in verdict.failures if f.rule.severity != "critical"})


def _verdict(rows: pa.Table, rounds: Sequence[np.ndarray], flow: Flow) -> Verdict:
    try:
        return flow.contract.check(rows, rounds)
    except EvaluationFailed as error:
        if not flow.personal.read_by(error.rule):
            raise
        failed = EvaluationFailed(error.rule, HIDDEN)
    raise failed  # Not within `except`: a traceback would show the other with it.


def _rounds(rows: pa.Table, table: Table, contract: Contract) -> list[np.ndarray]:
    """The positions of the rows, in the parts in which rules that look across rows judge them; none if there is no
    such rule. Two changes of one row are no duplicates, so the second goes to the next part."""
    if not any(rule.needs_whole_batch for rule in contract.rules):
        return []
    columns = [plain(rows[name], table.column(name)).to_pylist() for name in table.primary_key]
    seen: Counter[tuple[object, ...]] = Counter()
    turns = np.empty(rows.num_rows, np.int64)
    for i, key in enumerate(zip(*columns, strict=True)):
        turns[i] = seen[key]
        seen[key] += 1
    # Sorted once: a mask for each turn would look at all rows as often as one row has changed.
    return np.split(np.argsort(turns, kind="stable"), np.cumsum(np.bincount(turns))[:-1])


def _words(reason: Reason) -> str:
    asked = f" ({reason.detail})" if reason.detail else ""
    return f"{reason.expectation} on {reason.column}: {reason.value}{asked}"


def _project(
    changes: Changes, views: Sequence[StreamView], projected: list[tuple[StreamView, Projected]]
) -> dict[int, list[str]]:
    failed: dict[int, list[str]] = {}
    for view in views:
        try:
            projected.append((view, project(view, changes)))
        except Unprojectable as error:
            for i, why in error.bad.items():
                failed.setdefault(i, []).extend(why)
    return failed
