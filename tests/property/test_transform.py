"""What a function returns for a row does not hang on the rows beside it, whatever Python values it returns."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.transform import Transform, Untransformable, transform

DAY = datetime(2013, 2, 12, 9, 30)
SCALAR = st.sampled_from(
    [
        *(None, True, False, 0, 15, 2**24 + 1, 2**53 + 1, 2**70, 1.5, -0.0, 1e300, float("nan"), float("inf")),
        *("", "15", "1.50", "2013-02-12", "much", b"15", b"\xff"),
        *map(Decimal, ["1.5", "1.50", "15", "1E+2", "1E-40", "1E+40", "NaN"]),
        *(DAY, DAY.date(), date(1969, 12, 31), DAY.replace(tzinfo=timezone(timedelta(hours=2))), pd.Timestamp(DAY)),
        *(DAY.replace(tzinfo=UTC), timedelta(1), pd.NaT, pd.NA, np.int8(1), np.float32(0.1), np.True_),
        np.str_("a"),  # none of np.datetime64: beside another number of NumPy's it ends the process, in Arrow itself
    ]
)
ARRAY = st.sampled_from([np.array([1, 2]), np.array([0.1], np.float32), np.array([1, None, "a"], object), np.array([])])
VALUE = SCALAR | st.lists(SCALAR, max_size=3) | st.tuples(SCALAR) | ARRAY | st.just({"a": 1})
SCALARS = [pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.binary()]
KIND = st.sampled_from([*SCALARS, pa.timestamp("us", "UTC")])


def returning(values: list[Any], mode: Literal["pandas", "python"], kind: pa.DataType) -> Transform:
    def lists(rows: dict[str, list[int]]) -> dict[str, Any]:
        return {"x": [values[i] for i in rows["row"]]}

    def frames(frame: pd.DataFrame) -> pd.DataFrame:
        column = pd.Series([None] * len(frame), frame.index, dtype=object)
        for place, i in enumerate(frame["row"]):
            column.iat[place] = values[i]
        return frame.assign(x=column)

    return transform("v", lists if mode == "python" else frames, mode, {"x": kind})


def shown(run: Transform, rows: pa.Table) -> list[str]:
    """What becomes of each row, in Arrow's words: Python has none for a moment of the year 10,000."""
    try:
        (column,) = run(rows)[0].columns
        return [str(column.slice(i, 1).combine_chunks()) for i in range(len(column))]
    except Untransformable as failed:
        good = [i not in failed.bad for i in range(rows.num_rows)]
        others = iter(shown(run, rows.filter(pa.array(good))))
        return [next(others) if one else "failed" for one in good]


@pytest.mark.parametrize("mode", ["pandas", "python"])
@given(values=st.lists(VALUE, min_size=1, max_size=8), kind=KIND | KIND.map(pa.list_))
def test_a_row_is_the_same_beside_others_as_alone(
    mode: Literal["pandas", "python"], values: list[Any], kind: pa.DataType
) -> None:
    run = returning(values, mode, kind)
    rows = pa.table({"row": range(len(values))})
    alone = [shown(run, rows.slice(i, 1))[0] for i in range(len(values))]
    assert shown(run, rows) == alone
