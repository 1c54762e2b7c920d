"""How long a contract takes for a batch, beside Great Expectations, with identical verdicts, and beside pandera.

Run: python -m benchmarks.contracts. Prints one JSON row a measurement: name, value, unit, goal, beside.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa_pandas
import pyarrow as pa
from pandera.errors import SchemaErrors

from benchmarks.platform import Row
from validation import gx
from validation.contract import Contract, load

BAD_SHARE = 0.1
EXPECTATIONS: list[tuple[str, dict[str, Any]]] = [
    ("column_values_to_not_be_null", {"column": "origin"}),
    ("column_values_to_not_be_null", {"column": "wind_speed"}),
    ("column_values_to_be_in_set", {"column": "origin", "value_set": ["EWR", "JFK", "LGA"]}),
    ("column_values_to_be_between", {"column": "wind_speed", "min_value": 0, "max_value": 250}),
    ("column_values_to_be_between", {"column": "humid", "min_value": 0, "max_value": 100}),
    ("column_values_to_be_between", {"column": "wind_dir", "min_value": 0, "max_value": 360}),
    ("column_values_to_match_regex", {"column": "tailnum", "regex": r"^N\d{1,5}[A-Z]{0,2}$"}),
    ("column_value_lengths_to_be_between", {"column": "tailnum", "min_value": 3, "max_value": 6}),
    ("column_pair_values_a_to_be_greater_than_b", {"column_A": "arrived", "column_B": "departed"}),
    ("compound_columns_to_be_unique", {"column_list": ["origin", "departed"]}),
]


def batch(rows: int, bad_share: float) -> pa.Table:
    """Rows like weather at departure, a share of which breaks one rule or another."""
    random = np.random.default_rng(2013)
    departed = [datetime(2013, 2, 12) + timedelta(seconds=row // 3) for row in range(rows)]
    wind_speed = random.normal(10, 3, rows).clip(0)
    bad = random.random(rows) < bad_share
    wind_speed[bad] = 1048.36
    return pa.table(
        {
            "origin": [("EWR", "JFK", "LGA")[row % 3] for row in range(rows)],
            "wind_speed": wind_speed,
            "wind_dir": random.integers(0, 361, rows),
            "humid": random.uniform(10, 100, rows),
            "tailnum": [f"N{number}{'' if bad[number % rows] else 'UA'}" for number in range(rows)],
            "departed": departed,
            "arrived": [moment + timedelta(hours=2) for moment in departed],
        }
    )


def rows(sizes: Sequence[int] = (100, 1_000, 10_000)) -> Iterator[Row]:
    """Batches of several sizes. Raises `SystemExit` if a verdict differs."""
    for size in sizes:
        table = batch(size, BAD_SHARE)
        contract = _contract(table.schema)
        _require_same_verdicts(contract, table)
        ours = _median_ms(partial(contract.check, table), 300)
        beside = _median_ms(partial(gx.failing, contract.rules, table), 7)
        others = {"GX": beside, "pandera": _median_ms(partial(_pandera, table.to_pandas()), 21)}
        yield Row(f"contract of 10 expectations, {size:,} rows", ours, "ms", "2" if size <= 1_000 else "", others)
        yield Row(f"contract, times faster than GX, {size:,} rows", beside / ours, "x", "50" if size <= 1_000 else "")


def _pandera(frame: pd.DataFrame) -> int:
    """The same rules by pandera, all failures gathered; the number of them."""
    try:
        PANDERA.validate(frame, lazy=True)
    except SchemaErrors as errors:
        return len(errors.failure_cases)
    return 0


PANDERA = pa_pandas.DataFrameSchema(
    {
        "origin": pa_pandas.Column(str, pa_pandas.Check.isin(["EWR", "JFK", "LGA"]), nullable=False),
        "wind_speed": pa_pandas.Column(float, pa_pandas.Check.in_range(0, 250), nullable=False),
        "humid": pa_pandas.Column(float, pa_pandas.Check.in_range(0, 100)),
        "wind_dir": pa_pandas.Column(int, pa_pandas.Check.in_range(0, 360)),
        "tailnum": pa_pandas.Column(
            str,
            [pa_pandas.Check.str_matches(r"^N\d{1,5}[A-Z]{0,2}$"), pa_pandas.Check.str_length(3, 6)],
        ),
    },
    checks=pa_pandas.Check(lambda frame: frame["arrived"] > frame["departed"]),
    unique=["origin", "departed"],
)


def main() -> None:
    """Print the rows."""
    for row in rows():
        row.print()


def _require_same_verdicts(contract: Contract, table: pa.Table) -> None:
    ours = {failure.rule.id: np.flatnonzero(failure.rows).tolist() for failure in contract.check(table).failures}
    theirs = {one.rule.id: one.rows.tolist() for one in gx.failing(contract.rules, table) if one.rows.size}
    if ours != theirs or not ours:
        raise SystemExit(f"the verdicts differ: {ours} and {theirs}")


def _contract(schema: pa.Schema) -> Contract:
    suite = {
        "name": "benchmark",
        "expectations": [{"type": f"expect_{name}", "kwargs": kwargs} for name, kwargs in EXPECTATIONS],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "benchmark.json")
        path.write_text(json.dumps(suite))
        return load(path, schema)


def _median_ms(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


if __name__ == "__main__":
    main()
