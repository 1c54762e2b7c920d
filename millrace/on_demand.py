"""On-demand feature views, as Feast runs their functions."""

import builtins
import dis
from collections.abc import Iterable, Iterator
from traceback import walk_tb
from types import CodeType, FunctionType

from feast import OnDemandFeatureView
from feast.transformation.pandas_transformation import PandasTransformation
from feast.transformation.python_transformation import PythonTransformation
from feast.transformation.udf_rehydrate import rehydrate_udf_from_source

from millrace.said import said
from streams.declarations import DeclarationError

_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_THERE = {
    "np": "import numpy as np",
    "numpy": "import numpy",
    "pd": "import pandas as pd",
    "pandas": "import pandas",
}
"""What is there where a function is made anew of its text, and before that only if its file imports it."""
_WRITES = frozenset({"STORE_GLOBAL", "STORE_NAME"})


def check_functions(views: Iterable[OnDemandFeatureView]) -> None:
    """Raises `DeclarationError` for a function that uses what its file imports or defines beside it.

    Feast makes the function anew of its own text (`feast.transformation.udf_rehydrate`), so that each request would
    fail. Where it cannot, as of a lambda, it takes the function as it was pickled, with what that uses.
    """
    for view in views:
        made = view.feature_transformation
        if not isinstance(made, PandasTransformation | PythonTransformation):
            continue
        function = rehydrate_udf_from_source(made.udf_string, preferred_name=made.udf.__name__)
        if isinstance(function, FunctionType) and (missing := _missing(function)):
            raise DeclarationError(
                f"view {view.name}",
                f"its function uses {', '.join(missing)} of its file, and Feast keeps of an on-demand view the "
                "function's text alone",
                "import or define it inside the function; its file may import pd and np",
            )


def refused(error: Exception) -> DeclarationError | None:
    """What is wrong with the on-demand view that Feast was trying on made-up values when it raised; None if it was not
    trying one."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    tried = [frame.f_locals.get("self") for frame in frames if frame.f_code.co_name == "infer_features"]
    view = next((view for view in tried if isinstance(view, OnDemandFeatureView)), None)
    if view is None:
        return None
    where, function = f"view {view.name}", getattr(view.feature_transformation, "udf", None)
    if not any(frame.f_code is getattr(function, "__code__", None) for frame in frames):
        return DeclarationError(where, f"Feast refuses it: {said(error)}", "mend it")
    raised = f"its function raised {type(error).__name__}: {error}"
    if isinstance(error, NameError) and error.name in _THERE:
        return DeclarationError(where, raised, f"write {_THERE[error.name]} in its file, where Feast tries it")
    return DeclarationError(where, f"{raised}, tried by Feast on made-up values", "mend the function")


def _missing(function: FunctionType) -> list[str]:
    """The names that a function reads and nothing gives it, in order."""
    codes = list(_with_nested(function.__code__))
    written = {name for code in codes for name in _names(code, _WRITES)}
    known = written | function.__globals__.keys() | vars(builtins).keys() | {"__annotations__"}  # of a class within
    return sorted({name for code in codes for name in _names(code, _READS)} - known)


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)


def _names(code: CodeType, operations: frozenset[str]) -> set[str]:
    return {one.argval for one in dis.get_instructions(code) if one.opname in operations}
