"""Changed primary keys of which only the first half came.

Debezium writes an update of a primary key as a delete of the old row, with the new key in a header, and a create under
it, with the old key in a header ("Primary key updates" in its documentation of the PostgreSQL connector). Both have one
position in the log, so a task that ends between the two goes on after both, and the create is lost (debezium/dbz#2549,
open as of 3.6.3). Nobody but the consumer can see it: the first half says what has to come. What is found lost is kept
with the table in the lake, for the workers after this one.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import islice

import orjson
import pyarrow.dataset as ds

from stores.errors import StoreUnavailable
from stores.lake import Lake, TableMissing
from streams.changes import LSNS
from streams.clock import Clock
from streams.decide import LakeTableName, changes_table
from streams.messages import Records
from streams.personal import PersonalColumns

log = logging.getLogger(__name__)

NEW_KEY, OLD_KEY = "__debezium.newkey", "__debezium.oldkey"

WAIT_SECONDS = 60.0
"""For the other half, which another worker may read, until the lake is asked; and between two questions to it."""

MOST_HALVES = 100_000
"""That wait, 30 MB of them: of more, as of a table that is long far behind, the oldest are forgotten."""

LOST_PROPERTY = "millrace.key_changes_lost"
"""Property of a table of changes: as a JSON object, the new keys that were found lost, by their LSNs."""

MOST_TOLD = 20
"""New keys that are named of a table."""


@dataclass(frozen=True, slots=True)
class Half:
    """One half of a key change: `key` is the new one as JSON, `first` says whether it is the delete of the old row."""

    key: str
    first: bool
    since: float


class KeyChanges:
    """The key changes of a worker's tables of which one half came, and those of the topics of `personal` that were
    lost before; it says which of a topic's columns nobody is told. All methods are the loop's."""

    def __init__(self, lake: Lake, clock: Clock, personal: Mapping[str, PersonalColumns]) -> None:
        self._lake = lake
        self._clock = clock
        self._personal = personal
        self._unasked = set(personal)
        self._halves: dict[tuple[str, int], Half] = {}
        self._lost: dict[str, dict[int, str]] = {}
        self._look_next = clock.monotonic()

    @property
    def lost(self) -> Mapping[str, str]:
        """By topic, for people: the rows whose new half never came."""
        return {
            topic: f"{topic}: primary keys were changed to {self._told(topic, keys)}, and the rows "
            'never came under them: unless they are among the letters, Debezium lost them (docs/operations.md, "A '
            f'changed primary key"): run millrace resnapshot {topic}'
            for topic, keys in list(self._lost.items())  # the loop may add one meanwhile
        }

    def _told(self, topic: str, keys: Mapping[int, str]) -> str:
        return ", ".join(self._personal[topic].key(key.encode()) for key in islice(keys.values(), MOST_TOLD))

    def note(self, records: Records) -> None:
        """Match the halves among records that are staged."""
        for place, headers in records.headers.items():
            value = records.values[place]
            if value is None or not (NEW_KEY in headers or OLD_KEY in headers):
                continue
            first = NEW_KEY in headers
            key = (headers[NEW_KEY] if first else records.keys[place]) or b""
            try:
                change = records.topic, int(orjson.loads(value)["source"]["lsn"])
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                continue  # a letter by now, with its reason
            if change[1] not in LSNS:
                continue  # likewise; the lake cannot be asked for it
            other = self._halves.pop(change, None)
            if other is None or other.first == first:
                self._halves[change] = Half(key.decode(errors="replace"), first, self._clock.monotonic())
        for change in list(islice(self._halves, max(0, len(self._halves) - MOST_HALVES))):
            del self._halves[change]

    def tick(self, behind: Callable[[], Collection[str]]) -> None:
        """Ask the lake, now and then, for the other halves of those that waited long enough, but for tables that are
        far `behind`: what is missing may be among what is not read."""
        now = self._clock.monotonic()
        if now < self._look_next:
            return
        self._look_next = now + WAIT_SECONDS
        late = behind() if self._halves else ()
        due = {
            change: half
            for change, half in self._halves.items()
            if now - half.since >= WAIT_SECONDS and change[0] not in late
        }
        waiting: defaultdict[str, dict[int, str]] = defaultdict(dict)
        for (topic, lsn), half in due.items():
            if half.first:
                waiting[topic][lsn] = half.key
        try:
            for topic in sorted({*waiting, *self._lost, *self._unasked}):
                self._look(topic, waiting[topic])
                self._unasked.discard(topic)
        except StoreUnavailable:
            return  # they are asked for again at the next look
        for change in due:
            del self._halves[change]

    def _look(self, topic: str, waiting: Mapping[int, str]) -> None:
        """Which of those that wait, or are told as lost, stand in the lake: as what they are, or read anew since."""
        table, lsn, op = changes_table(topic), ds.field("_lsn"), ds.field("_op")
        kept = self._kept(table)
        told = self._lost.get(topic, {}) | kept
        asked = {**told, **waiting}
        if not asked:
            return
        wanted = (op == "c") & lsn.isin(list(asked)) | (op == "r") & (lsn > min(asked))
        rows = self._lake.scan(table, ["_lsn", "_op"], wanted).read_all().to_pylist()
        found = {row["_lsn"] for row in rows if row["_op"] == "c"}
        read_anew = max((row["_lsn"] for row in rows if row["_op"] == "r"), default=0)
        lost = {lsn: key for lsn, key in asked.items() if lsn not in found and lsn > read_anew}
        if lost != kept:
            self._lake.describe(table, {LOST_PROPERTY: orjson.dumps(lost, option=orjson.OPT_NON_STR_KEYS).decode()})
        known = self._lost.pop(topic, {})
        if lost:
            self._lost[topic] = lost
        if lost.keys() - known.keys():
            log.error("%s", self.lost[topic], extra={"event": "key_change_lost", "table": topic})

    def _kept(self, table: LakeTableName) -> dict[int, str]:
        """What this worker, or one before it, found lost; nothing yet of a table that `apply` is to make."""
        try:
            text = self._lake.properties(table).get(LOST_PROPERTY, "{}")
        except TableMissing:
            return {}
        return {int(lsn): key for lsn, key in orjson.loads(text).items()}
