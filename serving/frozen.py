"""Feast's registry as it was read once."""

from inspect import unwrap
from typing import Any

from feast import RepoConfig
from feast.errors import FeatureViewVersionNotFound
from feast.infra.registry import proto_registry_utils as lookups
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.registry.registry import Registry
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from sqlalchemy.exc import OperationalError

from stores.errors import StoreUnavailable

Tags = dict[str, str] | None


class Frozen(Registry):  # type: ignore[misc]  # Feast is not typed
    """Answers from the message alone: it is neither read again nor written. Where the message lacks older versions of
    views, as that of an SQL registry does, these are read from `versions`. Threads may share it: what two of them look
    for at once is found twice, and the same.

    Feast's lookups remember what they found in the registry that was asked last, for the whole process and without a
    lock: threads that ask two registries can get each other's views, and a registry those of one that had its address
    in memory before. So each of these remembers its own.
    """

    def __init__(self, config: RepoConfig, message: RegistryProto, versions: BaseRegistry | None) -> None:
        super().__init__(config.project, None, None)
        self.cached_registry_proto = message
        self.enable_online_versioning = config.registry.enable_online_feature_view_versioning
        self.serve_features_while_materializing = config.registry.serve_features_while_materializing
        self._feature_service_cache: dict[str, list[str]] = {}  # which Feast fills
        self._versions = versions
        self._found: dict[Any, Any] = {}

    def _get_registry_proto(self, project: str | None, allow_cache: bool = False) -> RegistryProto:
        return self.cached_registry_proto

    def get_any_feature_view(self, name: str, project: str, allow_cache: bool = False) -> Any:
        return self._once(lookups.get_any_feature_view, name, project)

    def get_feature_view_by_version(
        self, name: str, project: str, version_number: int, allow_cache: bool = False
    ) -> Any:
        if self._versions is None:
            return super().get_feature_view_by_version(name, project, version_number, allow_cache)
        try:
            return self._versions.get_feature_view_by_version(name, project, version_number, allow_cache)
        except NotImplementedError as error:
            # Feast would take today's view for version 0, and mark the one that all requests are given as that.
            raise FeatureViewVersionNotFound(name, version_number, project) from error
        except OperationalError as error:
            raise StoreUnavailable("the registry", f"version {version_number} of {name} cannot be read") from error

    def list_entities(self, project: str, allow_cache: bool = False, tags: Tags = None) -> Any:
        return self._listed(lookups.list_entities, project, tags)

    def list_feature_services(self, project: str, allow_cache: bool = False, tags: Tags = None) -> Any:
        return self._listed(lookups.list_feature_services, project, tags)

    def list_feature_views(
        self, project: str, allow_cache: bool = False, tags: Tags = None, skip_udf: bool = False
    ) -> Any:
        return self._listed(lookups.list_feature_views, project, tags, skip_udf)

    def list_stream_feature_views(
        self, project: str, allow_cache: bool = False, tags: Tags = None, skip_udf: bool = False
    ) -> Any:
        return self._listed(lookups.list_stream_feature_views, project, tags, skip_udf)

    def list_on_demand_feature_views(
        self, project: str, allow_cache: bool = False, tags: Tags = None, skip_udf: bool = False
    ) -> Any:
        return self._listed(lookups.list_on_demand_feature_views, project, tags, skip_udf)

    def list_label_views(self, project: str, allow_cache: bool = False, tags: Tags = None) -> Any:
        return self._listed(lookups.list_label_views, project, tags)

    def _listed(self, look: Any, project: str, tags: Tags, *more: bool) -> Any:
        if not tags:
            return self._once(look, project, None, *more)
        return unwrap(look)(self.cached_registry_proto, project, tags, *more)

    def _once(self, look: Any, *asked: Any) -> Any:
        """What one of Feast's lookups finds, past its own memory."""
        if (look, asked) not in self._found:
            self._found[look, asked] = unwrap(look)(self.cached_registry_proto, *asked)
        return self._found[look, asked]
