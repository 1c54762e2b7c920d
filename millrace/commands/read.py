"""Reading: lookup, search."""

from typing import Any

import click

from millrace.cli import Failed, Out, Places, shared


@click.command
@click.argument("features", nargs=-1, required=True)
@click.option("--entity", "-e", "entities", multiple=True, required=True, help="A join key's value, as KEY=VALUE.")
@shared
def lookup(places: Places, out: Out, features: tuple[str, ...], entities: tuple[str, ...]) -> None:
    """Show an entity's features as a model service gets them.

    FEATURES are views, single features as VIEW:FEATURE, or feature services.

    \b
    millrace lookup weather_now airport_facts:name -e faa=JFK
    """
    from millrace.lookup import look_up
    from millrace.repo import open_repo

    keys = dict(_pair(entity) for entity in entities)
    if len(keys) < len(entities):
        raise Failed("a join key is given twice: one entity is looked up at a time")
    out.result(look_up(open_repo(places.repo, places.stack), features, keys), _show_lookup)


@click.command
@click.argument("text")
@click.option("--view", help="The vector view; needed only where there are several.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many to find.")
@shared
def search(places: Places, out: Out, text: str, view: str | None, top: int) -> None:
    """Find the entities of a vector view whose text is nearest to TEXT, by the view's own model."""
    from millrace.lookup import search_text
    from millrace.repo import open_repo

    out.result(search_text(open_repo(places.repo, places.stack), view, text, top), show_search)


def _pair(entity: str) -> tuple[str, str]:
    name, equals, value = entity.partition("=")
    if not equals:
        raise Failed(f"--entity {entity}: write KEY=VALUE")
    return name, value


def _show_lookup(value: dict[str, Any]) -> str:
    lines = [", ".join(f"{k}={v}" for k, v in value["entity"].items())]
    for name, feature in value["features"].items():
        moment = str(feature["event_timestamp"] or "")
        lines.append(f"  {name:40} {feature['value']!s:30} {moment}{_note(feature['status'])}")
    return "\n".join(lines)


def _note(status: str) -> str:
    """What is said of a value that is not simply there."""
    return "" if status == "PRESENT" else f"  {status}"


def show_search(value: dict[str, Any]) -> str:
    """The found entities for people."""
    if not value["results"]:
        return f"nothing found: view {value['view']} holds no vectors"
    lines = []
    for found, status in zip(value["results"], value["statuses"], strict=True):
        shown = ", ".join(f"{k}={v}" for k, v in found.items() if k != "distance")
        lines.append(f"{found['distance']:8.4f}  {shown}{_note(status)}")
    return "\n".join(lines)
