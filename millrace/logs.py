"""Log lines in logfmt: one line an event, `key=value` pairs that a machine splits and a person reads.

`ts` (UTC), `level`, `event` where the line is one of those that docs/operations.md names, `msg` the sentence, then
the event's own fields. A value with a space, a quote, an equals sign or a control character is a JSON string.
"""

import json
import logging
import re
import time
from collections.abc import Mapping
from functools import lru_cache

_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f]+")
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "event"}
"""What every record has; the rest was given with `extra`."""

_SHORT = 100
"""Characters up to which the form of a value is kept: names come again and again."""


class Logfmt(logging.Formatter):
    """Formats a record as one line of logfmt; what `extra` gives beside `event` are its fields."""

    def format(self, record: logging.LogRecord) -> str:
        pairs: dict[str, object] = {}
        if (event := getattr(record, "event", None)) is not None:
            pairs["event"] = event
        pairs["msg"] = record.getMessage()
        pairs |= {name: value for name, value in record.__dict__.items() if name not in _OWN}
        if record.exc_info:
            pairs["trace"] = self.formatException(record.exc_info)
        return _line(record.created, record.levelname, pairs)


def line(level: str, pairs: Mapping[str, object]) -> str:
    """A line of now, for what writes too many of them to go through `logging`; its end is not in it."""
    return _line(time.time(), level, pairs)


def _line(moment: float, level: str, pairs: Mapping[str, object]) -> str:
    second = int(moment)
    stamp = f"ts={_second(second)}.{int((moment - second) * 1_000):03}Z level={level}"
    return " ".join([stamp, *[f"{name}={_shown(value)}" for name, value in pairs.items()]])


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _shown(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return _quoted(text) if len(text) <= _SHORT else _as_it_must(text)


def _as_it_must(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


_quoted = lru_cache(maxsize=4096)(_as_it_must)
