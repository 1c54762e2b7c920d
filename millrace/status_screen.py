"""`millrace status` for people: one screen, what is wrong at its end."""

from collections import Counter
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

_ESTIMATES = ("p50", "p99")


def screen(value: dict[str, Any]) -> str:
    """The screen as text, coloured where stdout is a terminal."""
    console = Console(highlight=False, markup=False, emoji=False)  # names of a source may look like a style's
    if not console.is_terminal:
        console.width = 160
    grids = (_services(value), _stores(value), _sources(value), _tables(value), _workers(value), _letters(value))
    parts = [part for grid in grids if grid is not None for part in (grid, "")]
    with console.capture() as captured:
        console.print(Group(*parts, *_problems(value)))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _grid(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name != "waits for")
    return table


def _services(value: dict[str, Any]) -> RenderableType | None:
    if not value["services"]:
        return None
    grid = _grid("service", "state", "port", "up", right=("port", "up"))
    for service in value["services"]:
        uptime = f"{service['uptime']:,.0f} s" if service["uptime"] else ""
        grid.add_row(service["name"], service["state"], str(service["port"] or "-"), uptime)
    return grid


def _stores(value: dict[str, Any]) -> RenderableType | None:
    if not value.get("stores"):
        return None
    return Text("stores    " + ", ".join(f"{name} {state}" for name, state in value["stores"].items()))


def _sources(value: dict[str, Any]) -> RenderableType | None:
    if not value.get("connectors"):
        return None
    columns = ("source", "connector", "slot", "behind", "WAL kept", "until it is lost")
    grid = _grid(*columns, right=columns[3:])
    for name, state in value["connectors"].items():
        slot = value["slots"].get(name)
        row = ["-"] * 4
        if slot is not None:
            read = "active" if slot["active"] else "not read"
            row = [f"{read}, {slot['wal_status']}", _bytes(slot["behind_bytes"]), _bytes(slot["retained_bytes"])]
            row.append("no limit" if slot["safe_wal_size"] is None else _bytes(slot["safe_wal_size"]))
        grid.add_row(name, state, *row)
    return grid


def _tables(value: dict[str, Any]) -> RenderableType | None:
    if not value.get("lag"):
        return None
    columns = ("table", "lag", "accepted", "rejected", "ignored", "fresh p50", "p99", "lake files", "")
    grid = _grid(*columns, right=columns[1:8])
    workers = list(value.get("workers", {}).values())
    read_anew = {table for tables in value.get("snapshots", {}).values() for table in tables}
    for table, lag in value["lag"].items():
        counts: Counter[str] = Counter()
        for worker in workers:
            counts.update(worker["tables"].get(table, {}))
        ages = [worker["freshness"][table] for worker in workers if table in worker["freshness"]]
        files = [worker["lake"]["files"].get(f"changes/{table}", 0) for worker in workers]
        paused = any(table in worker["paused"] for worker in workers)
        grid.add_row(
            table,
            f"{lag:,}",
            *(f"{counts[what]:,}" for what in ("accepted", "rejected", "ignored")),
            *(_seconds(max((age[name] for age in ages if age[name] is not None), default=None)) for name in _ESTIMATES),
            f"{max(files, default=0):,}",
            Text("paused", "bold red") if paused else "being read anew" if table in read_anew else "",
        )
    return grid


def _workers(value: dict[str, Any]) -> RenderableType | None:
    if not value.get("workers"):
        return None
    columns = ("worker", "partitions", "staged", "flush p99", "slowest stage", "stale refused", "embedded", "spared")
    grid = _grid(*columns, "waits for", right=(*columns[1:4], *columns[5:]))
    for process, worker in value["workers"].items():
        stages = {name: stage["seconds"] for name, stage in worker["stages"].items()}
        slowest = max(stages, key=lambda name: stages[name], default="-")
        grid.add_row(
            process,
            f"{len(worker['partitions'])}",
            f"{worker['staged_rows']:,}",
            _seconds(worker["lake"]["flush"]["p99"]),
            f"{slowest} ({stages[slowest] / sum(stages.values()):.0%})" if any(stages.values()) else "-",
            f"{worker['rows']['refused']:,}",
            f"{worker['texts']['embedded']:,}",
            f"{worker['texts']['spared']:,}",
            Text(worker["waiting_for"] or "", "bold red"),
        )
    return grid


def _letters(value: dict[str, Any], most: int = 8) -> RenderableType | None:
    """The most frequent reasons of letters that the running workers wrote."""
    kinds: Counter[tuple[str, str, str]] = Counter()
    for worker in value.get("workers", {}).values():
        for table, found in worker["letters"].items():
            for kind in found:
                kinds[table, kind["stage"], kind["reason"]] += kind["count"]
    if not kinds:
        return None
    grid = _grid("letters", "table", "stage", "reason", right=("letters",))
    for (table, stage, reason), count in kinds.most_common(most):
        grid.add_row(f"{count:,}", table, stage, reason)
    if len(kinds) > most:
        grid.add_row("", f"and {len(kinds) - most} more reasons: millrace letters list", "", "")
    return grid


def _problems(value: dict[str, Any]) -> list[RenderableType]:
    return [Text.assemble(("problem: ", "bold red"), problem) for problem in value["problems"]] or [Text("all is well")]


def _bytes(count: int) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1_000:
            return f"{count:,.0f} {unit}"
        count //= 1_000
    return f"{count:,.0f} GB"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1_000:,.0f} ms" if seconds < 10 else f"{seconds:,.0f} s"
