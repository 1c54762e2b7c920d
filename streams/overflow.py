"""Numbers that a narrower type of floating point cannot hold."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt


def overflowed(values: pa.Array | pa.ChunkedArray, cast: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The positions of values that were cast to an infinity, or have an element that was, and are none: Arrow's cast
    of numbers and of text to floating point makes them so in silence."""
    if pt.is_list(cast.type) and pt.is_floating(cast.type.value_type):
        valid = cast.is_valid()
        lists = pc.list_flatten(values.filter(valid)), pc.list_flatten(cast.filter(valid))
        of = np.repeat(np.arange(len(cast)), np.asarray(pc.fill_null(pc.list_value_length(cast), 0)))
        return np.unique(of[overflowed(*lists)])
    if not pt.is_floating(cast.type) or not pc.any(pc.is_inf(cast)).as_py():
        return np.empty(0, np.int64)
    beyond = pc.is_inf(cast)
    if pt.is_floating(values.type):
        beyond = pc.and_not(beyond, pc.is_inf(values))
    elif pt.is_string(values.type) or pt.is_large_string(values.type):
        beyond = pc.and_not(beyond, pc.match_substring(values, "inf", ignore_case=True))
    return np.flatnonzero(pc.fill_null(beyond, False))
