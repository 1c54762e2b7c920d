"""Where an error was raised: what a log may say of it, as its words may hold values."""

import traceback
from pathlib import Path

FRAMES = 8
"""Of an error's frames the innermost."""


def kind(error: BaseException) -> str:
    """The error's type, and the types of those that it was raised from."""
    cause = error.__cause__
    return type(error).__name__ + (f" from {kind(cause)}" if cause is not None else "")


def places(error: BaseException) -> str:
    """The lines of the code that raised, the innermost first."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    told = [f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}" for frame in reversed(frames)]
    return "; ".join(told) or "unknown"
