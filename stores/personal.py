"""Which features are personal data, by the tags of plain Feast objects.

`tags={"personal": "true"}` on a Field marks a feature, on a view all its fields. What an on-demand view computes from
a personal feature is personal too, unless its field or the view says `"personal": "false"`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

PERSONAL_TAG = "personal"


def marked(tags: Mapping[str, str] | None) -> bool | None:
    """What the tags say of it, None if nothing; every other word than "false" is a yes, so that a slip hides."""
    word = (tags or {}).get(PERSONAL_TAG)
    return None if word is None else word.strip().lower() != "false"


def personal_fields(view: Any, inherited: bool = False) -> frozenset[str]:
    """The fields of a Feast view that are personal, join keys included; `inherited` is what holds of a field where
    neither it nor the view is tagged."""
    of_view = marked(view.tags)
    default = inherited if of_view is None else of_view
    fields = {field.name: field for field in (*getattr(view, "entity_columns", ()), *view.features)}
    return frozenset(name for name, field in fields.items() if _first(marked(field.tags), default))


def personal_features(views: Iterable[Any], on_demand: Iterable[Any] = ()) -> dict[str, frozenset[str]]:
    """The personal fields of each Feast view by its name; views and on-demand views without any are left out.

    An on-demand view reads its sources by `source_feature_view_projections`; one may be another on-demand view, whose
    rows are stored, and come in any order.
    """
    found, derived, before = {view.name: personal_fields(view) for view in views}, [*on_demand], None
    while found != before:
        before = dict(found)
        found |= {view.name: personal_fields(view, reads_personal(view, before)) for view in derived}
    return {name: fields for name, fields in found.items() if fields}


def reads_personal(view: Any, known: Mapping[str, frozenset[str]]) -> bool:
    """Whether a view computes from a personal feature, by those that are known; one that is no on-demand view does
    not."""
    reads = getattr(view, "source_feature_view_projections", {}).values()
    return any(feature.name in known.get(read.name, ()) for read in reads for feature in read.features)


def _first(said: bool | None, otherwise: bool) -> bool:
    return otherwise if said is None else said
