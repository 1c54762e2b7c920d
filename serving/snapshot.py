"""The registry as it stood at one moment, with the plans of the requests made of it. A request uses one snapshot
throughout, so that what it answers is never a mix of two registries."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import _parse_feature_ref

from serving.compile import Compiled, compile_request
from serving.plan import InvalidRequest, NotDeclared
from stores.feast_functions import loading
from stores.feast_protos import vector_field
from stores.personal import personal_features

log = logging.getLogger("millrace")

PLANS = 4096
WIDTH = 200_000
"""Plans that are kept, and features in all of them; those that were asked for longest ago are made anew."""
AHEAD = 256
"""Plans that are made before a snapshot is served: of those in use, the ones asked for last."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for: either features as `view:feature`, or a feature service."""

    features: tuple[str, ...]
    service: str | None
    full_feature_names: bool

    @property
    def by_version(self) -> bool:
        """Whether versions of views may be asked for, which Feast looks up in the database of an SQL registry."""
        return self.service is not None or any("@" in reference for reference in self.features)


def no_service(name: str, known: Iterable[str]) -> NotDeclared:
    """What says that there is no such feature service; `known` are those that whoever asks may know of."""
    return NotDeclared(f"there is no feature service {name!r}; there are: {', '.join(sorted(known)) or 'none'}")


class Snapshot:
    """A frozen registry. Threads may share it.

    Raises `FunctionUnloadable`."""

    def __init__(self, config: RepoConfig, registry: BaseRegistry) -> None:
        self.config = config
        self.registry = registry
        self.fingerprint = registry.proto().SerializeToString(deterministic=True)
        project = config.project
        with loading(registry.proto, project):
            views: Sequence[Any] = [
                *registry.list_feature_views(project, allow_cache=True),
                *registry.list_stream_feature_views(project, allow_cache=True),
                *registry.list_label_views(project, allow_cache=True),
                *registry.list_on_demand_feature_views(project, allow_cache=True),
            ]
        self.views: Mapping[str, Any] = {view.name: view for view in views}
        self.services: Mapping[str, Any] = {
            service.name: service for service in registry.list_feature_services(project, allow_cache=True)
        }
        stored = [view for view in views if not isinstance(view, OnDemandFeatureView)]
        self.only_vectors = bool(stored) and all(vector_field(view) is not None for view in stored)
        """Whether every view whose rows are stored has a vector."""
        self.personal: Mapping[str, frozenset[str]] = personal_features(
            stored, [view for view in views if isinstance(view, OnDemandFeatureView)]
        )
        self._plans: OrderedDict[Asked, Compiled] = OrderedDict()
        self._width = 0
        self._lock = threading.Lock()
        """Of the plans: to walk them runs their keys' `__hash__`, and other threads between."""

    def known(self, asked: Asked) -> Compiled | None:
        """How to answer it, if that is known already."""
        with self._lock:
            plan = self._plans.get(asked)
            if plan is not None:
                self._plans.move_to_end(asked)
            return plan

    def plan(self, asked: Asked) -> Compiled:
        """How to answer it; what is asked for `by_version` may have to be waited for. Raises `InvalidRequest`."""
        if (plan := self.known(asked)) is not None:
            return plan
        plan = compile_request(self._resolved(asked), asked.full_feature_names, self)
        with self._lock:
            if (made := self._plans.get(asked)) is not None:  # by another thread, meanwhile
                return made
            self._plans[asked] = plan
            self._width += plan.width
            while len(self._plans) > PLANS or (self._width > WIDTH and len(self._plans) > 1):
                self._width -= self._plans.popitem(last=False)[1].width
        return plan

    def prepare(self, before: "Snapshot | None" = None) -> None:
        """Make the plans of all feature services, and those in use `before`, so that no request waits for its own.

        What can no longer be answered is left out: whoever asks for it is told.
        """
        in_use = [] if before is None else before._in_use()
        for asked in (*(Asked((), service, False) for service in self.services), *in_use):
            try:
                self.plan(asked)
            except InvalidRequest:
                continue
            except Exception as error:  # noqa: BLE001  # one that fails is no reason to serve nothing
                told = asked.service or ", ".join(asked.features)
                log.error("%s cannot be served: %s", told, error, extra={"event": "plan_failed"})

    def _in_use(self) -> list[Asked]:
        with self._lock:
            return [*islice(reversed(self._plans), AHEAD)][::-1]

    def view(self, name: str) -> FeatureView:
        """A view by its name. Raises `NotDeclared`."""
        if name not in self.views:
            known = ", ".join(sorted(self.views)) or "none"
            raise NotDeclared(f"there is no feature view {name!r}; there are: {known}")
        return self.views[name]

    def features(self, name: str) -> list[str]:
        """The features of a view; the registry lists the join keys of a stream view among them, and they are none.
        Raises `NotDeclared`."""
        view = self.view(name)
        keys = {field.name for field in getattr(view, "entity_columns", ())}
        return [field.name for field in view.features if field.name not in keys]

    def _resolved(self, asked: Asked) -> Any:
        """What Feast takes: references, checked, or the service itself."""
        if asked.service is not None:
            if asked.features:
                raise InvalidRequest("give either features or feature_service, not both")
            if asked.service not in self.services:
                raise no_service(asked.service, self.services)
            return self.services[asked.service]
        if not asked.features:
            raise InvalidRequest('name features, as in "features": ["view:feature"], or a feature_service')
        self.check(asked.features)
        return list(asked.features)

    def check(self, references: Sequence[str]) -> None:
        """Raises `NotDeclared` and `InvalidRequest` for what is no feature of the registry."""
        for reference in references:
            self._check(reference)

    def _check(self, reference: str) -> None:
        if not reference.partition(":")[2]:
            raise InvalidRequest(f"{reference!r} is no feature: write view:feature")
        try:
            name, version, feature = _parse_feature_ref(reference)
        except ValueError:  # a version with more digits than Python makes a number of
            raise InvalidRequest(f"{reference[:100]!r}... is no feature: write view:feature") from None
        known = self.features(name)
        if version is None and feature not in known:
            raise NotDeclared(f"feature view {name!r} has no feature {feature!r}; it has: {', '.join(known)}")
