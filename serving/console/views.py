"""The rows of the page on views: each view with the table that feeds it, and the last reject of that."""

from collections.abc import Sequence
from dataclasses import dataclass

from feast.feature_view import DUMMY_ENTITY_ID

from serving.console.platform import LetterLine, PlatformState, TableState
from serving.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class ViewRow:
    """A feature view. `ttl` in seconds, None for none; `table` is "" and `state` None where no table feeds it."""

    name: str
    join_keys: str
    features: int
    ttl: float | None
    table: str
    state: TableState | None
    letter: LetterLine | None


def view_rows(snapshot: Snapshot, state: PlatformState, letters: Sequence[LetterLine]) -> list[ViewRow]:
    """The views by name; `letters` are the newest, newest first."""
    newest: dict[str, LetterLine] = {}
    for letter in letters:
        newest.setdefault(letter.table, letter)
    rows = []
    for name, view in sorted(snapshot.views.items()):
        table = state.captured.get(name, "")
        keys = [field.name for field in getattr(view, "entity_columns", ()) if field.name != DUMMY_ENTITY_ID]
        ttl = getattr(view, "ttl", None)
        seconds = ttl.total_seconds() if ttl else None
        found = state.tables.get(table), newest.get(table)
        rows.append(ViewRow(name, ", ".join(keys), len(view.features), seconds, table, *found))
    return rows
