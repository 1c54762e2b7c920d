"""Event times as they are stored, and as Feast writes them in an answer."""

from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

KNOWN = 100_000
"""Event times that are kept as text."""

NEVER = "1970-01-01T00:00:00Z"
"""What Feast says where there is no event time."""

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999, in microseconds since 1970: what ISO 8601, Python and `google.protobuf.Timestamp` can say."""


class _Moments(dict[bytes | None, tuple[int | None, str]]):
    """Serialised `google.protobuf.Timestamp`s that were met before, in microseconds since 1970 and as text."""

    def __missing__(self, stored: bytes | None) -> tuple[int | None, str]:
        if len(self) >= KNOWN:
            self.clear()
        if stored is None:
            known: tuple[int | None, str] = (None, NEVER)
        else:
            stamp = Timestamp.FromString(stored)
            micros = _in_calendar(stamp.seconds * 1_000_000 + stamp.nanos // 1_000)
            known = (micros, rfc3339(micros))
        self[stored] = known
        return known


_MOMENTS = _Moments()


def moments(stored: Iterable[bytes | None]) -> list[tuple[int | None, str]]:
    """Stored event times in microseconds since 1970, None where there is none, each as Feast writes it too. One before
    `FIRST` or after `LAST` counts as these."""
    return list(map(_MOMENTS.__getitem__, stored))


def rfc3339(micros: int) -> str:
    """Microseconds since 1970 as Feast writes them: no digits of the second, three or six. What is before `FIRST` or
    after `LAST` is written as these."""
    seconds, rest = divmod(_in_calendar(micros), 1_000_000)
    text = datetime.fromtimestamp(seconds, UTC).isoformat()[:19]  # strftime writes the year 385 with three digits
    if not rest:
        return text + "Z"
    return f"{text}.{rest // 1000:03d}Z" if not rest % 1000 else f"{text}.{rest:06d}Z"


def _in_calendar(micros: int) -> int:
    return min(max(micros, FIRST), LAST)
