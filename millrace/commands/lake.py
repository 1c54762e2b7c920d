"""Keeping the lake in shape: compact."""

from datetime import timedelta
from functools import partial
from typing import Any

import click

from millrace.cli import Failed, Out, Places, shared
from stores.lake import CompactedByAnother, Lake


@click.command
@click.option(
    "--table", "tables", multiple=True, help="Only this table, such as features/plane_facts; may be repeated."
)
@click.option(
    "--keep-hours",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    help="Keep files for so long after they were written.",
)
@shared
def compact(places: Places, out: Out, tables: tuple[str, ...], keep_hours: int) -> None:
    """Merge the lake's small files into large ones, and delete those that were replaced long enough ago.

    Safe beside live workers, which merge their own files as they go but delete none. Replaced files go that are older
    than --keep-hours, but for those replaced within the last hour: a query that has read the lake for longer than an
    hour may lose files under it, and fails. No row is ever removed.

    A table that a worker merges just then is left to it, and tried once more at the end. Exit code 1 if one was merged
    by another both times: run it again.
    """
    from rich.console import Console
    from rich.progress import track as tracked

    from millrace.repo import open_repo
    from millrace.wiring import lake

    store = lake(open_repo(places.repo, places.stack))
    report: dict[str, Any] = {}
    console = Console(stderr=True)
    # Elsewhere than on a terminal it would leave blank lines, and nothing else.
    track = partial(tracked, console=console, transient=True, disable=not console.is_terminal)
    names = list(dict.fromkeys(tables or store.tables()))
    put_off = [name for name in track(names, "compacting") if not _compacted(store, name, report)]
    put_off = [name for name in put_off if not _compacted(store, name, report)]
    for name in track(names, "deleting"):
        report[name]["deleted"] = store.vacuum(name, timedelta(hours=keep_hours))
    out.result({"tables": report}, _show)
    if put_off:
        raise Failed(f"{', '.join(put_off)}: merged by another process meanwhile; run it again")


def _compacted(store: Lake, name: str, report: dict[str, Any]) -> bool:
    """Whether the table was merged; not while another process does it."""
    report[name] = {"merged": 0}
    try:
        report[name]["merged"] = store.compact(name, look_inside=True)
    except CompactedByAnother:
        return False
    return True


def _show(value: dict[str, Any]) -> str:
    lines = [f"{name}: {t['merged']} files merged, {t['deleted']} deleted" for name, t in value["tables"].items()]
    return "\n".join(lines) or "the lake has no tables yet"
