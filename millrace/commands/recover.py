"""Putting a source's tables right: resnapshot, recover."""

from typing import Any

import click

from millrace.cli import Out, Places, shared

patience = click.option(
    "--patience", default=120.0, show_default=True, help="Give up after so many seconds in which nothing moves."
)


@click.command
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
@patience
@shared
def resnapshot(places: Places, out: Out, tables: tuple[str, ...], patience: float) -> None:
    """Read each TABLE (<source>.<schema>.<table>) anew by an incremental snapshot, while everything runs.

    For a table that is captured in addition, after changes were lost or rejected, or when `millrace verify`
    finds what differs. Newer values are never overwritten. Rows that PostgreSQL has no more get their delete.
    Workers must run. Killed at any point, run it again.
    """
    from millrace.repo import open_repo
    from millrace.resnapshot import resnapshot as run

    report = run(open_repo(places.repo, places.stack), tables, patience, out.say)
    out.result({"tables": report}, _show)


@click.command
@click.argument("source")
@patience
@shared
def recover(places: Places, out: Out, source: str, patience: float) -> None:
    """Bring SOURCE back after its replication slot was lost, invalidated, dropped or made anew by somebody.

    Stops its connector, forgets its position, drops the slot, starts it with a new one and a snapshot of all
    its tables, and sends the deletes of rows that went meanwhile. What changed in the gap more than once is
    known by its last state only. Workers must run. Killed at any point, run it again.
    """
    from millrace.repo import open_repo
    from millrace.resnapshot import recover as run

    report = run(open_repo(places.repo, places.stack), source, patience, out.say)
    out.result({"source": source, "tables": report}, _show)


def _show(report: dict[str, Any]) -> str:
    return "\n".join(
        f"{topic}: {table['rows']:,} rows read, {table['deleted']:,} deletes and {table['moved']:,} moves reconciled"
        for topic, table in report["tables"].items()
    )
