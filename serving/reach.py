"""What of a registry is shown to who has a key: the names that it may ask for, and no others."""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.access import Access, Caller, Forbidden
from serving.snapshot import Snapshot, no_service


@dataclass(frozen=True, slots=True)
class Reach:
    """The names of views and services, sorted; `personal` says whether personal data is for the key."""

    views: Sequence[str]
    services: Sequence[str]
    personal: bool


def reach_of(access: Access, key_id: str, snapshot: Snapshot) -> Reach:
    """What the key is for. Raises `Unauthorized` if it has been revoked since it was identified."""

    def caller(service: str | None) -> Caller | None:
        try:
            return access.reach(key_id, snapshot.config.project, service)
        except Forbidden:
            return None

    of_all = caller(None)
    of_services = {name: found for name in sorted(snapshot.services) if (found := caller(name)) is not None}
    views = sorted(snapshot.views) if of_all is not None else []
    personal = any(found.personal for found in (of_all, *of_services.values()) if found is not None)
    return Reach(views, list(of_services), personal)


def check_service(access: Access, key_id: str, snapshot: Snapshot, name: str) -> None:
    """Raises `NotDeclared` for a feature service that is none, naming those that the key is for: a plan's error would
    name all of them. Raises `Unauthorized` as `reach_of` does."""
    if name not in snapshot.services:
        raise no_service(name, reach_of(access, key_id, snapshot).services)
