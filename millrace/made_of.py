"""What each view was made of when it was applied last: where that changes, what the stores hold under the view's name
is of other entities, or of another time, and no change that comes says so."""

import json
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass

from stores.lake import Lake, property_of
from stores.values import name_of
from streams.decide import features_table
from streams.declarations import DeclarationError
from streams.views import StreamView

MADE_OF = "millrace.made_of"
"""Property of `features/<view>`: a `MadeOf` as a JSON object."""


@dataclass(frozen=True, slots=True)
class MadeOf:
    """`keys` has the column and the type of each join key, `texts` the columns that a vector embeds, None of a view
    without one. `online` is Feast's name of the view in the online store, None where an earlier version noted it."""

    keys: dict[str, list[str]]
    features: list[str]
    texts: list[str] | None
    online: str | None = None


def check_made_of(lake: Lake, views: Sequence[StreamView], applied: Set[str]) -> None:
    """Raises `DeclarationError` for a view whose rows would stand beside those of before as other entities, or in
    another store than theirs. What was taken out of those that are `applied` has nothing in the stores."""
    for view in views:
        before, now = _noted(lake, view), _made_of(view)
        if before is None:
            continue
        where = f"view {view.view.name}"
        for name, (column, value_type) in before.keys.items():
            of, of_type = now.keys.get(name, [column, value_type])
            # Where the table has the column of before no more, it may have been renamed, and be the same one.
            there = any(other.name == column for other in view.table.columns)
            if (of != column and there) or of_type != value_type:
                raise DeclarationError(
                    where,
                    f"its join key {name} was made of column {column} as {value_type} and is now of {of} as {of_type}: "
                    "rows under the keys of before would be served for ever",
                    "declare it as a view of another name, and backfill that",
                )
        if view.view.name in applied and (before.texts is None) != (now.texts is None):
            raise DeclarationError(
                where,
                "views with a vector field are kept in another store than those without, and what stands in the store "
                "of before would be served again with it",
                "take the view out and run millrace apply, then put it back, apply, and run what that names: backfill, "
                "and resnapshot for the vectors of older rows",
            )


def made_anew(lake: Lake, view: StreamView) -> tuple[str, ...]:
    """The features that rows of before have not, or have of another time: they were not declared when the view was
    applied last, or are the vectors of other texts. None where the view has no rows."""
    name = features_table(view.view.name)
    if not lake.exists(name):
        return ()
    before, held = _noted(lake, view), lake.snapshot(name).schema.names
    known = held if before is None else [feature for feature in before.features if feature in held]
    new = [feature.name for feature in view.view.features if feature.name not in known]
    vector = view.view.vector
    if vector is not None and before is not None and before.texts not in (None, list(vector.columns)):
        new.append(vector.name)
    return tuple(dict.fromkeys(new))


def other_versions(lake: Lake, views: Sequence[StreamView]) -> list[str]:
    """The names of the views that Feast keeps under another name online than when they were applied last, as it does
    with a new version where versions are on: nothing is served under that yet."""
    noted = [(view, _noted(lake, view)) for view in views]
    return [v.view.name for v, before in noted if before and before.online not in (None, v.view.online_name)]


def note_made_of(lake: Lake, views: Sequence[StreamView]) -> None:
    """Note what the views are made of from now on."""
    for view in views:
        made = _made_of(view)
        if made != _noted(lake, view):
            lake.describe(features_table(view.view.name), {MADE_OF: json.dumps(asdict(made))})


def _made_of(view: StreamView) -> MadeOf:
    vector = view.view.vector
    return MadeOf(
        {key.name: [view.column(key.name), name_of(key.value_type)] for key in view.view.join_keys},
        [feature.name for feature in view.view.features],
        list(vector.columns) if vector is not None else None,
        view.view.online_name,
    )


def _noted(lake: Lake, view: StreamView) -> MadeOf | None:
    """None of a view that was never applied, or by an earlier version."""
    text = property_of(lake, features_table(view.view.name), MADE_OF)
    return MadeOf(**json.loads(text)) if text else None
