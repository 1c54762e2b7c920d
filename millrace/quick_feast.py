"""Import Feast in two seconds of processor time instead of five.

Feast decorates its classes with `typeguard.typechecked`, which parses and compiles the source of their module once for
each of their methods, at every import. That finds mistakes in declarations. So the constructors are checked, from their
first call on, for the commands that read declarations; what else opens a repo reads objects that were applied before.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import typeguard

_typechecked = typeguard.typechecked


def import_feast_quickly(*, declaring: bool) -> None:
    """From now on Feast's classes are imported as they are written; those of anybody else are checked as before.

    With `declaring`, who calls a constructor of theirs with another type than its own gets a `TypeCheckError`.
    """
    typeguard.typechecked = partial(_quickly, declaring)


def _quickly(declaring: bool, target: Any = None, **options: Any) -> Any:
    if getattr(target, "__module__", "").partition(".")[0] != "feast":
        return _typechecked(target, **options)
    if declaring and "__init__" in vars(target):
        target.__init__ = _checked_from_first_call(target)
    return target


def _checked_from_first_call(target: Any) -> Callable[..., None]:
    written = target.__init__

    @wraps(written)
    def check_and_construct(self: Any, *arguments: Any, **options: Any) -> None:
        if target.__init__ is check_and_construct:
            target.__init__ = _typechecked(written)
        target.__init__(self, *arguments, **options)

    return check_and_construct
