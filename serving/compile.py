"""From a request's features to a `Plan`, by Feast's own resolution: services, projections, aliases, join key maps,
versions and on-demand views mean here what they mean in `feast serve`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.errors import FeastError, FeatureNameCollisionError
from feast.feature_view import DUMMY_ENTITY_ID
from feast.field import Field
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import _get_online_request_context, _parse_feature_ref
from feast.value_type import ValueType

from serving.plan import InvalidRequest, NotDeclared, Plan, PlannedFeature, PlannedView
from stores.entity_keys import INT32, INT64, UNIX_TIMESTAMP, entity_keys
from stores.feast_protos import stored_view, vector_field
from stores.fields import fields_of
from stores.hash_reads import HashRead
from stores.personal import personal_fields, reads_personal
from stores.values import arrow_type_of, has_column
from stores.view import Feature, View

SIZED = frozenset({INT32, INT64, ValueType.DOUBLE.value, ValueType.FLOAT.value, ValueType.BOOL.value, UNIX_TIMESTAMP})
"""The `ValueType`s whose values take a few bytes each; texts, bytes, lists and all others take any number."""

VALUES_FIRST, VALUES_AT_ONCE = 128, 512
"""Of those others, so many are read in the first round trip and at most in one: of more, what is too large shows while
little of it has come, to Redis' memory as well."""


class Declared(Protocol):
    """A registry at one moment, and the configuration that it belongs to: `serving.snapshot.Snapshot`."""

    @property
    def config(self) -> RepoConfig:
        """What the registry belongs to."""

    @property
    def registry(self) -> BaseRegistry:
        """Feast's own, frozen."""

    @property
    def personal(self) -> Mapping[str, frozenset[str]]:
        """The fields of each view that are personal data."""


@dataclass(frozen=True, slots=True)
class OnDemand:
    """On-demand views of a request that read the same views, no two of them versions of one: Feast's objects, the
    references to their features, and the numbers of the plan's features that their functions are given, with the names
    that these have there. `prefix` is what the names of the answer's features lack: Feast, asked for full names, drops
    what a function in Python calls by its own, and what any calls as one that it reads."""

    views: tuple[Any, ...]
    references: tuple[str, ...]
    inputs: tuple[tuple[int, str], ...]
    prefix: str


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan, and what on-demand views make of what it reads: `references` are the features asked for, as Feast
    resolved them, `views` the views of those, `personal` those that are personal data; `width` is how many values an
    entity has, those that on-demand views read among them; a vector has as many as its length."""

    plan: Plan
    on_demand: tuple[OnDemand, ...]
    references: tuple[str, ...]
    full_feature_names: bool
    views: tuple[str, ...]
    personal: tuple[str, ...]
    width: int


def compile_request(features: Any, full_feature_names: bool, declared: Declared) -> Compiled:
    """`features` are references or a feature service, as Feast takes them. Raises `InvalidRequest`."""
    project = declared.config.project
    try:
        context = _get_online_request_context(declared.registry, project, features, full_feature_names)
    except KeyError as error:
        raise NotDeclared(str(error.args[0])) from error
    except FeatureNameCollisionError as error:
        raise InvalidRequest(" ".join(str(error).split())) from error
    except FeastError as error:
        raise NotDeclared(str(error)) from error
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    references, on_demand, entity_keys_by_name, key_types, join_keys, grouped, _, request_data, _ = context
    asked = frozenset((_view_of(reference), _feature_of(reference)) for reference in references)
    builder = _Builder(declared.config, full_feature_names, asked)
    for view, names in grouped:
        builder.add(view, names)
    requested = [_shown(reference, full_feature_names) for reference in references]
    echoed = join_keys - {DUMMY_ENTITY_ID}
    known = {name: kind.value for name, kind in _key_types(declared, key_types).items() if name in echoed}
    # As Feast takes a column: for request data, else for a join key, else for the entity of that name.
    entity_names = {
        name: key for name, key in entity_keys_by_name.items() if key in known and name not in {*echoed, *request_data}
    }
    plan = builder.plan(_once(requested), known, entity_names, frozenset(request_data))
    return Compiled(
        plan,
        _on_demand(
            on_demand, references, plan, [view.projection.name_to_use() for view, _ in grouped], full_feature_names
        ),
        tuple(references),
        full_feature_names,
        _once([_view_of(reference) for reference in references]),
        _personal(declared.personal, [*(view for view, _ in grouped), *on_demand], references),
        _width(plan) + len(asked) - sum(feature.asked for feature in plan.features),
    )


def _width(plan: Plan) -> int:
    """How many values of an entity are read."""
    vectors = [view.view.vector for view in plan.vectors]
    return len(plan.features) + sum(vector.length - 1 for vector in vectors if vector is not None)


def _at_once(features: Sequence[PlannedFeature], views: Sequence[PlannedView], reads: int) -> tuple[int, int] | None:
    """As `Plan.at_once`."""
    unsized = Counter(views[feature.view].read for feature in features if feature.value_type not in SIZED)
    most = max((unsized[read] for read in range(reads)), default=0)
    return (max(1, VALUES_FIRST // most), max(1, VALUES_AT_ONCE // most)) if most else None


class _Builder:
    """Collects the views of a request, those with the same join keys under one read."""

    def __init__(self, config: RepoConfig, full_feature_names: bool, asked: frozenset[tuple[str, str]]) -> None:
        self._config = config
        self._full = full_feature_names
        self._asked = asked
        self._reads: list[tuple[Any, tuple[str, ...], list[bytes]]] = []
        self._views: list[PlannedView] = []
        self._vectors: list[PlannedView] = []
        self._features: list[PlannedFeature] = []
        self._keys: dict[str, int] = {}

    def add(self, declared: Any, names: list[str]) -> None:
        """A view and those of its features that are read."""
        view = _view(self._config, declared, names)
        renamed = declared.projection.join_key_map
        columns = tuple(renamed.get(key.name, key.name) for key in view.join_keys)
        self._keys |= dict(zip(columns, (key.value_type for key in view.join_keys), strict=True))
        name = declared.projection.name_to_use()
        shown = declared.projection.name_alias or declared.projection.name
        version = getattr(declared, "current_version_number", 0) or 0
        ttl = getattr(declared, "ttl", None)
        seconds = ttl.total_seconds() if ttl else 0.0
        if _in_vector_store(self._config, declared):
            place, read = 0, -1 - len(self._vectors)  # counted on from the hashes once all are known
        else:
            read, place = self._read(view, columns)
        planned = PlannedView(shown, version, view, columns, read, place, seconds)
        if read < 0:
            self._vectors.append(planned)
        self._views.append(planned)
        for number, feature in enumerate(view.features):
            called = f"{name}__{feature.name}" if self._full else feature.name
            of_view, at = len(self._views) - 1, place + 1 + number
            asked = (name, feature.name) in self._asked
            self._features.append(PlannedFeature(called, feature.name, of_view, at, feature.value_type, asked))

    def plan(
        self,
        requested: tuple[str, ...],
        known_keys: Mapping[str, int],
        entity_names: Mapping[str, str],
        request_data: frozenset[str],
    ) -> Plan:
        """The plan of all views added."""
        reads = tuple(HashRead(codec, columns, tuple(fields)) for codec, columns, fields in self._reads)
        views = tuple(_counted(view, len(reads)) for view in self._views)
        alike: dict[int, list[int]] = {}
        for number, feature in enumerate(self._features):
            alike.setdefault(feature.value_type, []).append(number)
        return Plan(
            reads=reads,
            packed_fields=tuple(read.packed_fields() for read in reads),
            vectors=tuple(_counted(view, len(reads)) for view in self._vectors),
            views=views,
            features=tuple(self._features),
            requested=requested,
            keys=dict(self._keys),
            known_keys={**known_keys, **self._keys},
            entity_names=entity_names,
            request_data=request_data,
            decoders=tuple((kind, tuple(places)) for kind, places in alike.items()),
            timestamps=tuple(alike.get(UNIX_TIMESTAMP, ())),
            at_once=_at_once(self._features, views, len(reads)),
        )

    def _read(self, view: View, columns: tuple[str, ...]) -> tuple[int, int]:
        """The number of the read that has the view, and the place of its timestamp there."""
        try:
            codec = entity_keys(view)
        except ValueError as error:
            raise InvalidRequest(f"view {view.name!r}: {error}") from error
        by_name = dict(zip((key.name for key in view.join_keys), columns, strict=True))
        ordered = tuple(by_name[key.name] for key in codec.join_keys if key.name in by_name)
        fields = fields_of(view)
        alike = [n for n, (known, its, _) in enumerate(self._reads) if known == codec and its == ordered]
        if not alike:
            self._reads.append((codec, ordered, []))
        number = alike[0] if alike else len(self._reads) - 1
        its_fields = self._reads[number][2]
        place = len(its_fields)
        its_fields += [fields.timestamp, *fields.features]
        return number, place


def _counted(view: PlannedView, reads: int) -> PlannedView:
    if view.read >= 0:
        return view
    number = reads - 1 - view.read
    return PlannedView(view.name, view.version, view.view, view.columns, number, view.place, view.ttl)


def _in_vector_store(config: RepoConfig, declared: Any) -> bool:
    return vector_field(declared) is not None and bool(getattr(config.online_store, "vectors", None))


def _view(config: RepoConfig, declared: FeatureView, names: list[str]) -> View:
    """The view with those features only, in the order of its declaration; one with a vector whole."""
    keys = [_feature(field) for field in _key_fields(declared) if field.name != DUMMY_ENTITY_ID]
    if _in_vector_store(config, declared):
        return stored_view(config, declared, keys)
    wanted = set(names)
    return View(
        project=config.project,
        name=declared.name,
        online_name=compute_versioned_name(declared, config.registry.enable_online_feature_view_versioning),
        kind="state",
        join_keys=tuple(keys),
        features=tuple(_feature(field) for field in declared.features if field.name in wanted),
    )


def _key_fields(declared: Any) -> list[Field]:
    return list(declared.entity_columns)


def _feature(field: Field) -> Feature:
    """A field as the stores see it; the types that have no column form are read as Feast's messages only."""
    value_type = field.dtype.to_value_type().value
    return Feature(field.name, value_type, arrow_type_of(value_type) if has_column(value_type) else pa.null())


def _key_types(declared: Declared, of_request: Mapping[str, Any]) -> dict[str, Any]:
    """The types of all join keys of the registry: a request may have more of them than its views need."""
    entities = declared.registry.list_entities(declared.config.project, allow_cache=True)
    return {**{entity.join_key: entity.value_type for entity in entities}, **of_request}


def _on_demand(
    views: Sequence[Any], references: Sequence[str], plan: Plan, read: Sequence[str], full_feature_names: bool
) -> tuple[OnDemand, ...]:
    """`read` are the plan's views by their names in references.

    Feast, given all at once, keeps what a view does not read from its function by the names of the features: it would
    lack what it reads where another view has a feature of the same name. Of two versions of one view it knows the later
    one only.
    """
    alike: dict[tuple[frozenset[str], str, int | None], list[Any]] = {}
    for view in views:
        sources = frozenset(source.name for source in view.source_feature_view_projections.values())
        prefix = f"{view.projection.name_to_use()}__" if full_feature_names else ""
        alike.setdefault((sources, prefix, view.projection.version_tag), []).append(view)
    found = []
    for (sources, prefix, _), its_views in alike.items():
        names = {view.projection.name_to_use() for view in its_views}
        its_references = tuple(reference for reference in references if _view_of(reference) in names)
        found.append(OnDemand(tuple(its_views), its_references, _inputs(plan, read, sources), prefix))
    return tuple(found)


def _inputs(plan: Plan, read: Sequence[str], sources: frozenset[str]) -> tuple[tuple[int, str], ...]:
    """The plan's features of some views, by their own names; by full ones where two have the same, as Feast has them
    for functions."""
    read_there = [number for number, feature in enumerate(plan.features) if read[feature.view] in sources]
    named = Counter(plan.features[number].feature for number in read_there)
    return tuple(
        (number, feature.feature if named[feature.feature] == 1 else f"{read[feature.view]}__{feature.feature}")
        for number, feature in ((number, plan.features[number]) for number in read_there)
    )


def _personal(known: Mapping[str, frozenset[str]], views: Sequence[Any], references: Sequence[str]) -> tuple[str, ...]:
    """The references to personal features, whatever alias, version or spelling they come under.

    A feature of an older version is personal if that version said so, or if today's view does.
    """
    of_views = {
        view.projection.name_to_use(): known.get(view.name, frozenset())
        | personal_fields(view, reads_personal(view, known))
        for view in views
    }
    found = []
    for reference in references:
        name, version, feature = _parse_feature_ref(reference)
        # As Feast's own `_group_feature_refs` finds the view of a reference.
        if feature in of_views[name if version is None else f"{name}@v{version}"]:
            found.append(reference)
    return tuple(found)


def _view_of(reference: str) -> str:
    view, version, _ = _parse_feature_ref(reference)
    return str(view) if version is None else f"{view}@v{version}"


def _feature_of(reference: str) -> str:
    return str(_parse_feature_ref(reference)[2])


def _shown(reference: str, full_feature_names: bool) -> str:
    view, version, feature = _parse_feature_ref(reference)
    if not full_feature_names:
        return str(feature)
    return f"{view}__{feature}" if version is None else f"{view}@v{version}__{feature}"


def _once(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
