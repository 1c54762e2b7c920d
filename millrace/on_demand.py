"""On-demand feature views, as Feast runs their functions."""

import builtins
import dis
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType

from feast import OnDemandFeatureView
from feast.transformation.pandas_transformation import PandasTransformation
from feast.transformation.python_transformation import PythonTransformation
from feast.transformation.udf_rehydrate import rehydrate_udf_from_source

from streams.declarations import DeclarationError

_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
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
                "import or define it inside the function; pd and np are there",
            )


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
