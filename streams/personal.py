"""The columns of a captured table that personal features read, and how what is said of a record is kept from showing
their values: in reasons, letters and logs.

Which columns those are follows from the declarations: `streams.declarations.personal_columns`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from streams.letters import Rejection, kind_of
from validation.rule import Rule

HIDDEN = "(personal data)"

_OF_CONTRACT = re.compile(r"\w+ on .*?: ", re.DOTALL)
_RAISED = " (cannot be evaluated: "
_CONDITION = "row_condition="
_WITHOUT_A_VALUE = re.compile(r"view \S+: the event time \S+ is null")
_OF_ENVELOPE = frozenset({"op", "source", "ts_ms", "ts_us", "ts_ns", "transaction"})
"""What of Debezium's envelope is no row."""


@dataclass(frozen=True, slots=True)
class PersonalColumns:
    """Those of one table; `every` where a function reads the table. False if there are none."""

    columns: frozenset[str] = frozenset()
    every: bool = False

    def __bool__(self) -> bool:
        return self.every or bool(self.columns)

    def has(self, column: str) -> bool:
        """Whether a column of the table is among them."""
        return self.every or column in self.columns

    def read_by(self, rule: Rule) -> bool:
        """Whether a rule may have read them: by its columns, or by a condition, which may name any."""
        return bool(self) and (rule.conditional or any(map(self.has, rule.columns)))

    def reason(self, reason: str) -> str:
        """A reason of a rejection: as it is if it speaks of other columns only, otherwise without values."""
        if not self:
            return reason
        if reason.startswith("column "):
            return f"{reason.partition(': ')[0]}: {HIDDEN}" if self._of_column(reason) else reason
        if match := _OF_CONTRACT.match(reason):
            if self._of_contract(reason) or _CONDITION in reason:
                return f"{match[0]}{HIDDEN}"
            # A reason does not tell whether what was raised is the condition's, which may have read any column.
            shown, raised, _ = reason.partition(_RAISED)
            return f"{shown}{raised}{HIDDEN})" if raised else reason
        kind = kind_of(reason)
        if _WITHOUT_A_VALUE.fullmatch(reason):
            return reason
        return reason if kind == reason else f"{kind}: {HIDDEN}"

    def _of_column(self, reason: str) -> bool:
        """Whether the column that a reason names is one of them. Names are looked for, as they can hold what stands
        behind one."""
        begins = (f"column {name}{after}" for name in self.columns for after in (": ", " ("))
        return self.every or any(map(reason.startswith, begins))

    def _of_contract(self, reason: str) -> bool:
        """Whether the columns that a contract's reason names may be: one that a value speaks of counts too."""
        around = [(before, after) for before in (" on ", ", ") for after in (", ", ": ")]
        return self.every or any(f"{a}{name}{b}" in reason for name in self.columns for a, b in around)

    def rejections(self, rejections: Sequence[Rejection]) -> Sequence[Rejection]:
        """The rejections with such reasons."""
        if not self:
            return rejections
        return [replace(r, reasons=tuple(map(self.reason, r.reasons))) for r in rejections]

    def key(self, key: bytes | None) -> str:
        """A record's key as text, without values of these columns."""
        if not self:
            return _text(key)
        return _json(self._row(_parsed(key)))

    def value(self, value: bytes | None) -> str:
        """A record's value as text, without values of these columns; what is no envelope is hidden whole."""
        if not self:
            return _text(value)
        envelope = _parsed(value)
        if not isinstance(envelope, dict):
            return HIDDEN if value else ""
        shown = {
            name: part if name in _OF_ENVELOPE else self._row(part) if name in ("before", "after") else HIDDEN
            for name, part in envelope.items()
        }
        return _json(shown)

    def _row(self, row: object) -> object:
        if not isinstance(row, dict):
            return None if row is None else HIDDEN
        return {name: HIDDEN if self.has(name) and value is not None else value for name, value in row.items()}


NOTHING = PersonalColumns()
"""Of a table without personal data."""


def _parsed(data: bytes | None) -> object:
    try:
        return orjson.loads(data) if data else None
    except orjson.JSONDecodeError:
        return HIDDEN


def _json(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
