"""Functions of on-demand views: what they use beside their own text is refused, as Feast would not find it."""

import math
from datetime import timedelta
from math import tau
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Field, OnDemandFeatureView, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from millrace.on_demand import check_functions
from streams.declarations import DeclarationError

FACTOR = 2.0
seen = 0
ASKED = RequestSource(name="asked", schema=[Field(name="x", dtype=Float64)])
PYTHON: Any = {"sources": [ASKED], "schema": [Field(name="y", dtype=Float64)], "mode": "python"}
PANDAS: Any = {**PYTHON, "mode": "pandas"}


def doubled(value: float) -> float:
    return FACTOR * value


@on_demand_feature_view(**PYTHON)
def with_an_import(rows: dict[str, Any]) -> dict[str, Any]:
    return {"y": [math.sqrt(x) for x in rows["x"]]}


@on_demand_feature_view(**PYTHON)
def with_a_name_of_another_module(rows: dict[str, Any]) -> dict[str, Any]:
    return {"y": [tau * x for x in rows["x"]]}


@on_demand_feature_view(**PANDAS)
def with_a_constant(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"y": rows["x"].map(lambda x: x * FACTOR)})


@on_demand_feature_view(**PYTHON)
def with_a_helper(rows: dict[str, Any]) -> dict[str, Any]:
    def each() -> list[float]:
        return [doubled(x) for x in rows["x"]]

    return {"y": each()}


@on_demand_feature_view(**PYTHON)
def with_two_of_them(rows: dict[str, Any]) -> dict[str, Any]:
    class Scale:
        by = timedelta(seconds=FACTOR).total_seconds()

    return {"y": [Scale.by * x for x in rows["x"]]}


@pytest.mark.parametrize(
    ("view", "names"),
    [
        (with_an_import, "math"),
        (with_a_name_of_another_module, "tau"),
        (with_a_constant, "FACTOR"),
        (with_a_helper, "doubled"),
        (with_two_of_them, "FACTOR, timedelta"),
    ],
)
def test_what_stands_beside_the_function_is_refused(view: OnDemandFeatureView, names: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        check_functions([view])
    assert str(caught.value) == (
        f"view {view.name}: its function uses {names} of its file, and Feast keeps of an on-demand view the "
        "function's text alone; import or define it inside the function; its file may import pd and np"
    )


@on_demand_feature_view(**PYTHON)
def of_its_own(rows: dict[str, Any], factor: float = 2.0) -> dict[str, Any]:
    import math
    from math import tau as whole
    from typing import NamedTuple

    half = 0.5

    class Scale:
        base = 1.0
        by = base * 2

    class Offset(NamedTuple):
        least: float
        most: float = 1.0

    def scaled(x: float) -> float:
        return math.sqrt(x) * half * whole * Scale.by + Offset(0.0).least

    return {"y": [round(scaled(x) * factor, 3) for x in rows["x"] if isinstance(x, float)]}


@on_demand_feature_view(**PANDAS)
def of_pandas(rows: pd.DataFrame) -> pd.DataFrame:
    found = pd.DataFrame()
    found["y"] = np.sqrt(rows["x"]).map(lambda x: max(x, 0.0))
    return found


@on_demand_feature_view(**PYTHON)
def of_itself(rows: dict[str, Any]) -> dict[str, Any]:
    global seen
    seen = len(rows["x"])
    if seen > 1:
        return {"y": [of_itself({"x": [x]})["y"][0] for x in rows["x"]]}
    return {"y": [seen * x for x in rows["x"]]}


of_a_lambda = OnDemandFeatureView(
    name="of_a_lambda",
    udf=lambda rows: {"y": [math.sqrt(x) for x in rows["x"]]},
    udf_string="udf=lambda rows",
    **PYTHON,
)
of_no_text = OnDemandFeatureView(name="of_no_text", udf=doubled, udf_string="", **PYTHON)


@on_demand_feature_view(**PYTHON)
def of_a_default(rows: dict[str, Any], factor: float = FACTOR) -> dict[str, Any]:
    """Which Feast cannot make anew: it takes it as it was pickled, and finds `math` there."""
    return {"y": [math.sqrt(x) * factor for x in rows["x"]]}


@pytest.mark.parametrize("view", [of_its_own, of_pandas, of_itself, of_a_lambda, of_no_text, of_a_default])
def test_what_feast_can_run_is_let_through(view: OnDemandFeatureView) -> None:
    check_functions([view])


@pytest.mark.parametrize("view", [of_its_own, of_itself, of_a_lambda, of_a_default])
def test_what_is_let_through_runs_as_it_was_kept(view: OnDemandFeatureView) -> None:
    kept = OnDemandFeatureView.from_proto(view.to_proto())
    assert len(kept.feature_transformation.udf({"x": [4.0]})["y"]) == 1
