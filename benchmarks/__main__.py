"""Measure everything that has a goal, write `benchmarks/results.json` and the table in `docs/benchmarks.md`.

Run: python -m benchmarks [--only drain --only freshness ...]. A full run takes more than half an hour; what `--only`
leaves out keeps its last figures.
"""

import argparse
import json
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks import cold_start, contracts, decided_anew, drain, freshness, lake_sustained, letters, search, serving
from benchmarks.platform import Row

RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- benchmark figures: begin -->\n", "<!-- benchmark figures: end -->"

MEASURED: Mapping[str, Callable[[], Iterable[Row]]] = {
    "drain": drain.rows,
    "freshness": freshness.rows,
    "decided_anew": decided_anew.rows,
    "letters": letters.rows,
    "contracts": contracts.rows,
    "lake_sustained": lake_sustained.rows,
    "cold_start": cold_start.rows,
    "serving": serving.rows,
    "search": search.rows,
}

LOADED_BY: Mapping[str, tuple[str, ...]] = {"serving": ("wrk", "vegeta"), "search": ("vegeta",)}
INSTALLED_BY: Mapping[str, str] = {
    "wrk": "apt-get install wrk",
    "vegeta": "go install github.com/tsenart/vegeta/v12@v12.12.0, with its folder in PATH",
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(MEASURED))
    kept: dict[str, list[dict[str, Any]]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    wanted = parser.parse_args().only or list(MEASURED)
    for name, tools in LOADED_BY.items():
        missing = [tool for tool in tools if name in wanted and shutil.which(tool) is None]
        if missing:
            how = "; ".join(INSTALLED_BY[tool] for tool in missing)
            raise SystemExit(f"{name} needs {' and '.join(missing)}: {how}; or name the others by --only")
    for name in wanted:
        kept[name] = []
        before = psutil.cpu_times()
        for row in MEASURED[name]():
            row.print()
            where = {"machine": _machine(), "stolen": _stolen(before), "date": time.strftime("%Y-%m-%d")}
            kept[name].append({**row.as_dict(), **where})
        RESULTS.write_text(json.dumps({n: kept[n] for n in MEASURED if n in kept}, indent=1) + "\n")
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(head + BEGIN + _table(kept) + END + rest.split(END)[1])


def _machine() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = found.group(1) if found else platform.processor()
    return f"{model}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def _stolen(before: Any) -> float:
    """The share of the processors that the machine's host gave to others since then, in percent of all that was used:
    what no program on it can help."""
    since = {name: now - then for name, now, then in zip(before._fields, psutil.cpu_times(), before, strict=True)}
    used = sum(since.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return round(100 * since.get("steal", 0.0) / used, 1) if used else 0.0


def _table(results: Mapping[str, list[dict[str, Any]]]) -> str:
    lines = ["| measured | value | goal | beside | machine, date |", "|---|---|---|---|---|"]
    for rows in results.values():
        for row in rows:
            beside = "; ".join(f"{name}: {value:,g}" for name, value in row["beside"].items())
            value = f"{row['value']:,g} {row['unit']}"
            stolen = f", {row['stolen']:g} % of it stolen" if "stolen" in row else ""
            where = f"{row['machine']}{stolen}, {row['date']}"
            lines.append(f"| {row['name']} | {value} | {row['goal']} | {beside} | {where} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
