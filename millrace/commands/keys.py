"""API keys of model services: add, list, revoke."""

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from millrace.cli import Failed, Out, Places, shared

if TYPE_CHECKING:
    from millrace.repo import Repo
    from stores.access_keys import AccessKey


class Rate(click.FloatRange):
    """A finite number above 0."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        rate = float(super().convert(value, param, ctx))
        if not math.isfinite(rate):
            self.fail(f"{rate} is no limit: leave the option out for none", param, ctx)
        return rate


RATE = Rate(min=0, min_open=True)


@click.group
def keys() -> None:
    """API keys of the project's model services, sent as 'Authorization: Bearer mr_...'.

    They stand hashed in the online store's Redis; every server reads them anew each second.
    """


@keys.command
@click.argument("name")
@click.option("--service", "services", multiple=True, help="Only this feature service; may be given several times.")
@click.option("--personal", is_flag=True, help="Also features that are tagged as personal data.")
@click.option("--replay", is_flag=True, help="May replay dead letters in the console.")
@click.option("--requests-per-second", type=RATE, help="Limit over all servers together.  [default: none]")
@click.option("--entities-per-second", type=RATE, help="Limit over all servers together.  [default: none]")
@shared
def add(
    places: Places,
    out: Out,
    name: str,
    services: tuple[str, ...],
    personal: bool,
    replay: bool,
    requests_per_second: float | None,
    entities_per_second: float | None,
) -> None:
    """Make the key NAME and show it, this once.

    \b
    millrace keys add delay-model --service delay_model --requests-per-second 500
    """
    from millrace.repo import open_repo
    from millrace.wiring import access_keys
    from serving.keys import make_key

    repo = open_repo(places.repo, places.stack)
    _check_services(repo, services)
    made = make_key(name, services, personal, requests_per_second or 0.0, entities_per_second or 0.0, replay)
    if not access_keys(repo).add(made.stored):
        raise Failed(f"there is a key {name!r}: millrace keys revoke {name} first, or take another name")
    out.result({**_shown(made.stored), "key": made.text}, lambda value: str(value["key"]))
    out.say(f"key {name!r} is shown this once: it is stored as a hash only")


@keys.command("list")
@shared
def list_(places: Places, out: Out) -> None:
    """List the keys: what each reaches, and its limits."""
    from millrace.repo import open_repo
    from millrace.wiring import access_keys

    found = [_shown(key) for key in access_keys(open_repo(places.repo, places.stack)).all()]
    out.result(
        {"count": len(found), "keys": found},
        lambda value: "\n".join([*map(_line, value["keys"]), f"{value['count']} keys"]),
    )


@keys.command
@click.argument("name")
@shared
def revoke(places: Places, out: Out, name: str) -> None:
    """End the key NAME: within a second no server takes it any more."""
    from millrace.repo import open_repo
    from millrace.wiring import access_keys

    if not access_keys(open_repo(places.repo, places.stack)).remove(name):
        raise Failed(f"there is no key {name!r}: millrace keys list shows them")
    out.result({"revoked": name}, lambda value: f"key {value['revoked']!r} is revoked")


def _check_services(repo: "Repo", services: tuple[str, ...]) -> None:
    known = {service.name for service in repo.registry().list_feature_services(repo.project)}
    if unknown := [service for service in services if service not in known]:
        there_are = ", ".join(sorted(known)) or "none; millrace apply brings them into the registry"
        raise Failed(f"there is no feature service {unknown[0]!r}; there are: {there_are}")


def _shown(key: "AccessKey") -> dict[str, Any]:
    """Of a key what may be seen."""
    return {
        "name": key.name,
        "id": key.id,
        "services": list(key.services),
        "personal": key.personal,
        "replay": key.replay,
        "requests_per_second": key.requests_per_second or None,
        "entities_per_second": key.entities_per_second or None,
        "made": datetime.fromtimestamp(key.made, UTC).isoformat(timespec="seconds"),
    }


def _line(key: dict[str, Any]) -> str:
    reach = ", ".join(key["services"]) or "all features"
    limits = [
        f"{key[f'{what}_per_second']:g} {what}/s" for what in ("requests", "entities") if key[f"{what}_per_second"]
    ]
    notes = [reach, *(["personal data"] if key["personal"] else []), *(["replay"] if key["replay"] else []), *limits]
    return f"{key['name']:24} {key['id']}  {key['made']}  {'; '.join(notes)}"
