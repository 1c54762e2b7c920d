"""The demo."""

import shutil
from pathlib import Path
from typing import Any

import click

from millrace.cli import Failed, Out, Places, shared
from millrace.commands.check import show_verify
from millrace.commands.read import show_search


@click.command
@click.option("--keep", is_flag=True, help="Leave the stack running, and print what to try on it.")
@shared
def demo(places: Places, out: Out, keep: bool) -> None:
    """The flights of 2013-02-12 through everything, with a report at the end.

    Starts a stack of its own in <stack>/demo, whose former data it removes. Exit code 0 only if nothing
    differs anywhere and the wind of 1048 mph was caught.
    """
    from millrace.demo.run import run_demo
    from millrace.settings import java_home
    from millrace.stack.jars import default_jars
    from millrace.stack.stack import Stack

    folder = (places.stack / "demo").resolve()
    stack = Stack(folder, default_jars(), java_home())
    stack.down(out.say)
    shutil.rmtree(folder, ignore_errors=True)
    stack.up(out.say)
    try:
        report = run_demo(places.repo, stack, folder, out.say)
    finally:
        if not keep:
            stack.down(out.say)
    out.result(report, _show)
    if keep:
        out.say(_to_try(folder))
    if any(report["verify"][kind] for kind in ("mismatches", "lost", "doubled")) or not report["wind_caught"]:
        raise Failed("the stores differ, or the wind reading was not caught")


def _show(report: dict[str, Any]) -> str:
    freshness = report["freshness_ms"]
    features = report["lookup"]["features"].items()
    training = report["training"]
    known = ", ".join(f"{name} in {count}" for name, count in training["known"].items())
    return "\n".join(
        [
            "",
            f"captured   {report['captured']:,} changes",
            f"accepted   {report['accepted']:,}, rejected {report['rejected']}",
            *(f"  letter   {reason} ({count})" for reason, count in report["letters"].items()),
            f"freshness  p50 {freshness['p50']} ms, p99 {freshness['p99']} ms, from commit to readable, "
            f"of {freshness['seen']:,} commits",
            "lookup     " + ", ".join(f"{k}={v}" for k, v in report["lookup"]["entity"].items()),
            *(f"  {name:32} {feature['value']}" for name, feature in features),
            f'search     "{report["search"]["text"]}"',
            *(f"  {line}" for line in show_search(report["search"]).splitlines()),
            f"training   {training['rows']:,} flights as they were known at departure ({known})",
            "verify     PostgreSQL = online = lake",
            *(f"  {line}" for line in show_verify(report["verify"]).splitlines()),
            f"all of it took {report['seconds']:g} s",
        ]
    )


def _to_try(folder: Path) -> str:
    return "\n".join(
        [
            "the stack runs on; try:",
            f"  millrace run --stack {folder} &",
            f"  millrace status --stack {folder}",
            f"  millrace lookup delay_model -e faa=EWR -e tailnum=N328AA --stack {folder}",
            f'  millrace search "airports in Alaska" --stack {folder}',
            f"  millrace letters list --stack {folder}",
            f"  source {folder}/env; feast -c feature_repo feature-views list",
            f"  millrace down --stack {folder}",
        ]
    )
