"""Measure everything that has a goal, write `benchmarks/results.json` and the table in `docs/benchmarks.md`.

Run: python -m benchmarks [--only drain --only freshness ...]. A full run takes about 25 minutes; what `--only` leaves
out keeps its last figures.
"""

import argparse
import json
import platform
import re
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


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(MEASURED))
    kept: dict[str, list[dict[str, Any]]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in parser.parse_args().only or MEASURED:
        kept[name] = []
        for row in MEASURED[name]():
            row.print()
            kept[name].append({**row.as_dict(), "machine": _machine(), "date": time.strftime("%Y-%m-%d")})
        RESULTS.write_text(json.dumps({n: kept[n] for n in MEASURED if n in kept}, indent=1) + "\n")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + _table(kept) + END + rest.split(END)[1])


def _machine() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = found.group(1) if found else platform.processor()
    return f"{model}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def _table(results: Mapping[str, list[dict[str, Any]]]) -> str:
    lines = ["| measured | value | goal | beside | machine, date |", "|---|---|---|---|---|"]
    for rows in results.values():
        for row in rows:
            beside = "; ".join(f"{name}: {value:,g}" for name, value in row["beside"].items())
            value = f"{row['value']:,g} {row['unit']}"
            lines.append(f"| {row['name']} | {value} | {row['goal']} | {beside} | {row['machine']}, {row['date']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
