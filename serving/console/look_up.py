"""An entity looked up from a form: texts to keys in their types, and each value with its status and age."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from serving.access import Caller, withhold
from serving.compile import Compiled
from serving.features import OnlineFeatures
from serving.plan import InvalidRequest, NotDeclared
from serving.request import FeaturesRequest, from_text
from serving.search import VectorIndex, current, nearest, vector_view, withhold_search
from serving.snapshot import Asked, Snapshot
from serving.status import NAMES, of_values
from stores.feast_protos import vector_field
from stores.values import name_of
from stores.view import View

SHOWN = 300
"""Characters of a value that are shown."""


@dataclass(frozen=True, slots=True)
class Target:
    """What can be looked up: a feature view or a feature service. `withheld` are features that the caller may not
    see."""

    name: str
    is_service: bool
    compiled: Compiled
    withheld: Sequence[str]

    @property
    def service(self) -> str | None:
        """The name of the service, None for a view."""
        return self.name if self.is_service else None

    @property
    def fields(self) -> list[tuple[str, str]]:
        """What a form asks for: join keys and columns of request data, each with the name of its type."""
        plan = self.compiled.plan
        return [
            *((name, name_of(kind)) for name, kind in plan.keys.items()),
            *((name, "JSON or text") for name in sorted(plan.request_data)),
        ]


@dataclass(frozen=True, slots=True)
class Shown:
    """One feature of the entity; `age` is in seconds, None where there is no event time."""

    name: str
    value: str
    status: str
    event_time: str
    age: float | None


def target(snapshot: Snapshot, caller: Caller, name: str, is_service: bool) -> Target:
    """What of a view or service the caller may see. Of a view personal features are left out and named; a service is
    answered whole or not at all. Raises `InvalidRequest` and `Forbidden`."""
    if is_service:
        try:
            compiled = snapshot.plan(Asked((), name, False))
        except NotDeclared:
            raise
        except InvalidRequest:  # two features of one name
            compiled = snapshot.plan(Asked((), name, True))
        withhold(caller, compiled.personal)
        return Target(name, True, compiled, ())
    features = snapshot.features(name)
    hidden = () if caller.personal else snapshot.personal.get(name, frozenset())
    seen = [f"{name}:{feature}" for feature in features if feature not in hidden]
    withheld = [feature for feature in features if feature in hidden]
    if not seen:
        withhold(caller, [f"{name}:{feature}" for feature in features])
    compiled = snapshot.plan(Asked(tuple(seen), None, False))
    withhold(caller, compiled.personal)
    return Target(name, False, compiled, withheld)


async def look_up(features: OnlineFeatures, wanted: Target, form: Mapping[str, str], now: float) -> list[Shown]:
    """The entity that the form's fields name. `now` is in seconds since 1970. Raises `InvalidRequest`, and what the
    stores raise."""
    plan = wanted.compiled.plan
    entities = {name: [from_text(name, form.get(name, ""), plan.keys.get(name))] for name, _ in wanted.fields}
    asked = Asked((), wanted.service, wanted.compiled.full_feature_names)
    prepared = features.prepared(FeaturesRequest(asked, entities, 1, False), wanted.compiled)
    found = await features.find(prepared)
    shown = {}
    for feature, (value,), statuses in plan.columns(found.rows):
        if not feature.asked:
            continue
        view = found.rows.views[feature.view]
        status = "PRESENT" if statuses is None else NAMES[statuses[0]]
        micros = view.micros[0]
        age = None if micros is None else now - micros / 1e6
        moment = "" if micros is None else view.shown[0]
        shown[feature.name] = Shown(feature.name, as_text(value), status, moment, age)
    for derived in found.derived:
        (value,) = derived.values
        (status,) = of_values([value])
        shown[derived.name] = Shown(derived.name, as_text(value), status, "", None)
    return [shown[name] for name in plan.requested if name in shown]


def vector_views(snapshot: Snapshot) -> list[str]:
    """The views that can be searched."""
    return sorted(name for name, view in snapshot.views.items() if vector_field(view) is not None)


@dataclass(frozen=True, slots=True)
class Searched:
    """A view that is searched, and what is shown of what is found."""

    view: View
    features: Sequence[str]


def searched(snapshot: Snapshot, caller: Caller, name: str, text: str) -> Searched:
    """What a search by text is over. Raises `InvalidRequest` and `Forbidden`."""
    view = vector_view(snapshot, name)
    if not text.strip():
        raise InvalidRequest("a search needs a text")
    personal = snapshot.personal.get(name, frozenset())
    assert view.vector is not None
    features = [
        f.name for f in view.features if f.name != view.vector.name and (caller.personal or f.name not in personal)
    ]
    withhold_search(caller, view, personal, features)
    return Searched(view, features)


def search(
    index: VectorIndex, wanted: Searched, vector: Any, top: int, now: float
) -> tuple[list[str], list[list[str]]]:
    """The entities nearest to a vector: the names of the columns, and their rows. Features that are older than the
    view's `ttl` at `now` (seconds since 1970) are withheld. Raises `InvalidRequest`, and what the index raises."""
    found, statuses = current(wanted.view, nearest(index, wanted.view, vector, top, None, wanted.features), now)
    names = ["distance", *(key.name for key in wanted.view.join_keys), *wanted.features, "event_timestamp"]
    columns = [*(_column(found, column) for column in names), statuses]
    return [*names, "status"], [list(row) for row in zip(*columns, strict=True)]


def as_text(value: Any) -> str:
    """A value as a page shows it, shortened."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def _column(found: pa.Table, name: str) -> list[str]:
    values = found[name].to_pylist()
    if name == "distance":
        return [f"{value:.4f}" for value in values]
    return [value.isoformat() if isinstance(value, datetime) else as_text(_plain(value)) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def moment(seconds: float) -> str:
    """Seconds since 1970, for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
