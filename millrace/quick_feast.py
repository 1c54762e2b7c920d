"""Import Feast in two seconds of processor time instead of five.

Feast decorates its classes with `typeguard.typechecked`, which parses, rewrites and compiles their source at every
import. That finds mistakes in declarations, which only `millrace apply` and the demo read; what else opens a repo reads
objects that were applied before.
"""

from typing import Any

import typeguard

_typechecked = typeguard.typechecked


def import_feast_unchecked() -> None:
    """From now on Feast's classes are imported as they are written; those of anybody else are checked as before."""
    typeguard.typechecked = _unless_of_feast


def _unless_of_feast(target: Any = None, **options: Any) -> Any:
    if getattr(target, "__module__", "").partition(".")[0] == "feast":
        return target
    return _typechecked(target, **options)
