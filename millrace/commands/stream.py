"""Running a worker, and bringing views from the lake into the stores."""

import gc
import logging
import os
import signal
import sys
import threading
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from millrace.cli import Failed, Out, Places, shared
from streams.patience import Abandoned, Patience

if TYPE_CHECKING:
    from streams.pipeline import Flows
    from streams.worker import Worker

log = logging.getLogger("millrace")

COLLECT = (100_000, 20, 20)
"""Thresholds of the cyclic collector: a poll makes thousands of objects and no cycles."""

SWITCH_SECONDS = 0.0005
"""A thread that waits for the interpreter gets it after this. By default it waits ten times as long, each time that an
embedding or a write to a store beside the loop has had an answer."""


@click.command
@shared
def run(places: Places, out: Out) -> None:
    """Run a worker: from Kafka to the feature stores, until SIGTERM or Ctrl-C.

    Start as many as there are partitions; they share the work. A worker that is told to stop finishes what it
    holds, commits and leaves within ten seconds; a store that hangs just then adds its own time-out. When `millrace
    apply` has changed what is declared, a contract or a function too, the process starts itself anew.
    """
    from connectors.slots import SlotWatch
    from connectors.watch import Watch
    from millrace.anew import AppliedWatch, client_id, noted
    from millrace.repo import open_repo
    from millrace.wiring import connect, flows, lake, source, worker
    from millrace.workers import STARTING, announced
    from streams.health import Health
    from streams.metrics import Metrics

    stop = threading.Event()
    asked = threading.Event()
    _stop_on_signals(stop, asked)
    repo = open_repo(places.repo, places.stack)
    with announced(repo.workers_folder) as note:
        waiting = Patience(partial(_wait, stop))
        try:
            began = waiting(partial(noted, lake(repo), repo.project))
            declared = waiting(partial(flows, repo))
            member = waiting(partial(worker, repo, client_id(repo.project, began)))
            watch = partial(AppliedWatch, lake(repo), repo.project, began, member.topics, stop, lambda: member.paused)
            applied = waiting(watch)
        except Abandoned:
            log.info("stopped before its stores answered", extra={"event": "stopped"})
            value = {"waiting_for": waiting.waiting_for, "rows": {"applied": 0, "refused": 0}}
            out.result(value, lambda _: "stopped before its stores answered; no rows written")
            return
        _tell(declared)
        with ExitStack() as ending:
            ending.callback(applied.close)
            # Of a source that no view captures there is neither a slot nor a connector.
            sources = sorted({flow.table.source for flow in declared.values()} & repo.settings.sources.keys())
            slots = SlotWatch([source(repo, name) for name in sources])
            ending.callback(slots.close)
            settings = repo.settings.worker
            metrics = Metrics(member, slots.slots)
            state = partial(_state, repo.project, member, began)
            health = Health(settings.health_host, settings.health_port, state, metrics.exposition)
            ending.callback(health.close)
            log.info("health and metrics: %s", health.address, extra={"event": "listening", "address": health.address})
            ending.callback(Watch(connect(repo), sources).close)
            note(f"{health.address}/health")
            ending.callback(note, STARTING)  # anew, if that is what it does: it is one worker all the time
            # What start-up made lives as long as the process: keep the collector from walking it again and again.
            gc.collect()
            gc.freeze()
            ending.callback(gc.unfreeze)  # what native modules hold must be freed by it before they are unloaded
            gc.set_threshold(*COLLECT)
            sys.setswitchinterval(SWITCH_SECONDS)
            member.run(stop)
        if applied.seen and not asked.is_set():
            os.execv(sys.executable, sys.orig_argv)
        log.info("stopped", extra={"event": "stopped", **member.tally.stores})
        out.result(_state(repo.project, member, began), lambda s: f"stopped; rows written: {s['rows']}")


def _tell(declared: "Flows") -> None:
    """Log what is served of each table."""
    for topic, flow in sorted(declared.items()):
        kinds = ", ".join(f"{v.view.name} ({v.view.kind})" for v in flow.views)
        told = {"event": "serves", "table": topic, "contract": flow.contract.version}
        log.info("%s -> %s", topic, kinds, extra=told)


def _state(project: str, member: "Worker", declared: str | None) -> dict[str, object]:
    """What a worker tells of itself, with its process and project, by which it is known (`millrace.workers`), and the
    digest of what is declared as it knows it (`millrace.anew`)."""
    return {"pid": os.getpid(), "project": project, **member.state(), "declared": declared}


@click.command
@click.argument("table")
@click.option("--wait", default=10.0, show_default=True, help="Seconds that the workers of this machine have to do so.")
@shared
def resume(places: Places, out: Out, table: str, wait: float) -> None:
    """Let the workers go on with TABLE (<source>.<schema>.<table>), which they paused for its rejects.

    They go on from where they stopped, on whatever machine they run, and count the rejects anew. Mend the
    source first; after mending a contract run `millrace apply` instead, at which they start anew.
    """
    from millrace.repo import open_repo
    from millrace.resume import resume_table

    value = resume_table(open_repo(places.repo, places.stack), table, wait)
    out.result(value, _show_resume)
    not_on = [f"workers {', '.join(value['silent'])} did not go on within {wait:g} s"] if value["silent"] else []
    if value["gone"]:
        not_on.append(f"workers {', '.join(value['gone'])} had paused it and answer no more: were they killed?")
    if not_on:
        raise Failed(f"{'; '.join(not_on)}; see millrace status")


def _show_resume(value: dict[str, Any]) -> str:
    if value["resumed"]:
        return f"{value['table']} goes on, at workers {', '.join(value['resumed'])}"
    if value["silent"] or value["gone"]:
        return f"asked all workers to go on with {value['table']}; none of this machine says that it does"
    return f"asked all workers to go on with {value['table']}; none of this machine had paused it"


@click.command
@click.option("--view", "views", multiple=True, help="Only this view; may be given several times.")
@click.option("--from", "start", type=click.DateTime(), help="Only changes committed at or after this time (UTC).")
@click.option("--to", "end", type=click.DateTime(), help="Only changes committed before this time (UTC).")
@shared
def backfill(places: Places, out: Out, views: tuple[str, ...], start: datetime | None, end: datetime | None) -> None:
    """Bring views from the lake into the stores: after a view was added, or the online store was lost.

    Safe beside live workers, and repeatable: newer values are never overwritten, nothing is written twice. A
    run that was killed is continued by running it again.
    """
    from millrace.progress import progress
    from millrace.repo import open_repo
    from millrace.started_anew import wait_anew
    from millrace.wiring import backfill as wired
    from streams.backfill import Window

    if start is not None and end is not None and start >= end:
        raise click.UsageError(f"--from {start} is not before --to {end}")
    repo = open_repo(places.repo, places.stack)
    job = wired(repo)
    wait_anew(repo, out.say)
    with progress(out.say) as told:
        report = job.run(views, Window(start, end), lambda view, part: told(f"filling {view}", part, 1.0))
    out.result({"views": report}, _show_backfill)


def _show_backfill(report: dict[str, Any]) -> str:
    lines = [
        f"{name}: {view['changes_read']:,} changes read, {view['rows_added']:,} rows added to the lake, "
        f"{view['applied']:,} of {view['entities']:,} entities written ({view['refused']:,} were newer already)"
        for name, view in report["views"].items()
    ]
    return "\n".join(lines)


def _wait(stop: threading.Event, seconds: float) -> None:
    """Between two tries to reach a store at the start. Raises `Abandoned` when told to stop."""
    if stop.wait(seconds):
        raise Abandoned


def _stop_on_signals(*stops: threading.Event) -> None:
    def ask(number: int, frame: FrameType | None) -> None:
        for stop in stops:
            stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
