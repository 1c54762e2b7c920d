"""Keeping the lake in shape: compact."""

from datetime import timedelta
from typing import Any

import click

from millrace.cli import Out, Places, shared


@click.command
@click.option(
    "--table", "tables", multiple=True, help="Only this table, such as features/plane_facts; may be repeated."
)
@click.option("--keep-hours", default=24, show_default=True, help="Keep replaced files for so long.")
@shared
def compact(places: Places, out: Out, tables: tuple[str, ...], keep_hours: int) -> None:
    """Merge the lake's small files into large ones, and delete those that were replaced long enough ago.

    Safe beside live workers, which merge their own files as they go but delete none. --keep-hours must be longer
    than the longest query over the lake: a shorter time takes files away under it. No row is ever removed.
    """
    from rich.console import Console
    from rich.progress import track

    from millrace.repo import open_repo
    from millrace.wiring import lake

    store = lake(open_repo(places.repo, places.stack))
    report: dict[str, Any] = {}
    for name in track(tables or store.tables(), "compacting", console=Console(stderr=True), transient=True):
        merged = store.compact(name)
        report[name] = {"merged": merged, "deleted": store.vacuum(name, timedelta(hours=keep_hours))}
    out.result({"tables": report}, _show)


def _show(value: dict[str, Any]) -> str:
    lines = [f"{name}: {t['merged']} files merged, {t['deleted']} deleted" for name, t in value["tables"].items()]
    return "\n".join(lines) or "the lake has no tables yet"
