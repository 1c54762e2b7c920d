"""Numbers that JSON does not know."""

import math
from collections.abc import Mapping
from typing import Any


def finite(value: Any) -> Any:
    """A value with the numbers that JSON does not know as text, the same as in the answers of `millrace serve`."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {finite(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
