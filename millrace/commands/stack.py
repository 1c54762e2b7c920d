"""The local stack: up, down, status."""

import shlex
import threading
from dataclasses import asdict
from typing import Any

import click

from millrace.cli import Failed, Out, Places, shared
from millrace.settings import java_home, stands_alone
from millrace.stack.jars import default_jars
from millrace.stack.stack import Stack
from millrace.stack.supervisor import supervise


def open_stack(places: Places) -> Stack:
    """The stack of the folder."""
    return Stack(places.stack, default_jars(), java_home())


@click.command
@click.option("--foreground", is_flag=True, help="Stay, watch the services, and stop them all on Ctrl-C.")
@shared
def up(places: Places, out: Out, foreground: bool) -> None:
    """Start PostgreSQL, Kafka, Kafka Connect with Debezium and Redis on this machine.

    On a running stack of which services have died, start those again.
    """
    stack = open_stack(places)
    endpoints = stack.up(out.say)
    value = {
        "folder": str(places.stack),
        "kafka": endpoints.kafka,
        "connect": endpoints.connect,
        "redis": endpoints.redis,
    }
    out.result(value, lambda _: f"up; for other tools: source {shlex.quote(str(places.stack / 'env'))}")
    if foreground and supervise(stack, threading.Event(), out.say):
        raise Failed("a service died; its last log lines are above")


@click.command
@shared
def down(places: Places, out: Out) -> None:
    """Stop the local stack; its data stays."""
    there = (places.stack / "stack.json").exists()
    open_stack(places).down(out.say)
    nothing = f"there is no stack in {places.stack}: --stack names another folder"
    out.result({"folder": str(places.stack)}, lambda _: "down" if there else nothing)


@click.command
@shared
def status(places: Places, out: Out) -> None:
    """Show the services, the connectors and slots, the tables, the workers and the letters in one screen.

    Exit code 1 if something is wrong; the last lines name it.
    """
    services = [asdict(service) for service in open_stack(places).status()]
    value: dict[str, Any] = {"services": services, "problems": []}
    value["problems"] += [
        f"{s['name']} died; see {s['log']}; millrace up starts it again" for s in services if s["state"] == "dead"
    ]
    runs = any(service["state"] == "running" for service in services)
    if runs or not (places.stack / "stack.json").exists() or stands_alone(places.repo):
        from millrace.repo import open_repo
        from millrace.status import repo_status

        found = repo_status(open_repo(places.repo, places.stack))
        value |= {**found, "problems": value["problems"] + found["problems"]}
    elif not value["problems"]:
        value["problems"] = ["the local stack is stopped: millrace up"]
    out.result(value, _show_status)
    if value["problems"]:
        more = f" (and {len(value['problems']) - 1} more, see above)" if len(value["problems"]) > 1 else ""
        raise Failed(f"{value['problems'][0]}{more}")


def _show_status(value: dict[str, Any]) -> str:
    from millrace.status_screen import screen

    return screen(value)
