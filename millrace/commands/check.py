"""Checks: verify, validate."""

from pathlib import Path
from typing import Any

import click

from millrace.cli import Failed, Out, Places, shared


@click.command
@click.option("--view", "views", multiple=True, help="Only this view; may be given several times.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    help="Compare only so many entities of each view, drawn at random. All are read all the same.",
)
@click.option(
    "--wait",
    default=10.0,
    show_default=True,
    help="Seconds that changes in flight have to arrive, for each view that differs.",
)
@shared
def verify(places: Places, out: Out, views: tuple[str, ...], sample: int | None, wait: float) -> None:
    """Compare PostgreSQL, the online store and the lake, entity by entity.

    Without --view and --sample each record that the topics retain is accounted for as well: a change in the lake once,
    or a letter. Exit code 1 if an entity differs, a record is lost or a change doubled, or if it is not known what is
    in flight.
    """
    from millrace.progress import progress
    from millrace.repo import open_repo
    from millrace.verify import verify_views
    from millrace.wiring import source

    repo = open_repo(places.repo, places.stack)
    for declared in repo.declared():
        source(repo, declared.topic.partition(".")[0])  # raises if it is not named any more
    with progress(out.say) as told:
        value = verify_views(repo, views, sample, wait, told)
    out.result(value, show_verify)
    found = {"entities differ": "mismatches", "records are lost": "lost", "changes are doubled": "doubled"}
    wrong = [f"{value[kind]} {words}" for words, kind in found.items() if value[kind]]
    if wrong or value["problems"]:
        raise Failed("; ".join([*wrong, *value["problems"]]))


def show_verify(value: dict[str, Any]) -> str:
    """The report for people."""
    lines = []
    for name, view in value["views"].items():
        rejected = f", {view['rejected']} rows rejected: millrace letters list" if view["rejected"] else ""
        lines.append(f"{name}: {view['entities']:,} entities, {view['mismatches']} differ{rejected}")
        for example in view["examples"]:
            lines.append(f"  {example['entity']}")
            lines += [f"    {place:8} {example[place]}" for place in ("postgres", "online", "lake")]
    for topic, table in value["tables"].items():
        kinds = ("changes", "letters", "repeated", "silent", "lost")
        became = ", ".join(f"{kind} {table[kind]:,}" for kind in kinds if table[kind] or kind == "lost")
        lines.append(f"{topic}: records {table['records']:,}: {became}; doubled {table['doubled']:,}")
        lines += [f"  {example}" for example in table["examples"]]
    flight = value["in_flight"]
    records = (
        "not known how many records" if flight["records"] is None else f"{flight['records']} records not committed"
    )
    lines.append(f"in flight: {records}, changes of the last {flight['seconds']:g} s")
    return "\n".join(lines)


@click.command
@click.argument("table")
@click.option("--source", "from_source", is_flag=True, help="Validate the source's rows instead of the lake's.")
@click.option("--docs", type=click.Path(path_type=Path), default="build/data-docs", show_default=True)
@shared
def validate(places: Places, out: Out, table: str, from_source: bool, docs: Path) -> None:
    """Run the whole contract of TABLE (<source>.<schema>.<table>) by Great Expectations; write its Data Docs.

    Its rows go through the transforms of the table's views as well, which write nothing. Exit code 1 if an expectation
    fails, or a view cannot take a row.
    """
    from millrace.repo import open_repo
    from millrace.validate import validate_table

    value = validate_table(open_repo(places.repo, places.stack), table, from_source, docs)
    out.result(value, _show_validate)
    if not value["success"]:
        odd = f", {value['undecodable']} rows hold values that cannot be carried" if value["undecodable"] else ""
        views = [
            f", view {name} cannot take {v['rejected']} rows" for name, v in value["views"].items() if v["rejected"]
        ]
        raise Failed(f"{value['failed']} expectations failed{odd}{''.join(views)}")


def _show_validate(value: dict[str, Any]) -> str:
    lines = [
        f"{'ok  ' if e['success'] else 'FAIL'} {e['expectation']} on {', '.join(e['columns'])}"
        + (f": {e['error']}" if e["error"] else f": {e['failed']} rows fail" if e["failed"] else "")
        for e in value["expectations"]
    ]
    for name, view in value["views"].items():
        lines.append(f"{'FAIL' if view['rejected'] else 'ok  '} view {name}: {view['rejected']} rows cannot be taken")
        lines += [f"       {count:,} rows: {reason}" for reason, count in view["reasons"].items()]
    return "\n".join([*lines, f"Data Docs: {value['docs']}"])
