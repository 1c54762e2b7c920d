"""Log lines in logfmt: one line an event, `key=value` pairs that a machine splits and a person reads.

`ts` (UTC), `level`, `event` where the line is one of those that docs/operations.md names, `msg` the sentence, then
the event's own fields. A value with a space, a quote, an equals sign or a control character is a JSON string.
"""

import json
import logging
import re
import time

_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f]+")
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "event"}
"""What every record has; the rest was given with `extra`."""


class Logfmt(logging.Formatter):
    """Formats a record as one line of logfmt; what `extra` gives beside `event` are its fields."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        pairs: dict[str, object] = {"ts": f"{moment}.{int(record.msecs):03}Z", "level": record.levelname}
        if (event := getattr(record, "event", None)) is not None:
            pairs["event"] = event
        pairs["msg"] = record.getMessage()
        pairs |= {name: value for name, value in record.__dict__.items() if name not in _OWN}
        if record.exc_info:
            pairs["trace"] = self.formatException(record.exc_info)
        return " ".join(f"{name}={_shown(value)}" for name, value in pairs.items())


def _shown(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
