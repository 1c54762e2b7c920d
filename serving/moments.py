"""Event times as they are stored, and as Feast writes them in an answer."""

from datetime import UTC, datetime
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp

NEVER = "1970-01-01T00:00:00Z"
"""What Feast says where there is no event time."""


@lru_cache(maxsize=100_000)
def moment(stored: bytes | None) -> tuple[int | None, str]:
    """A serialised `google.protobuf.Timestamp` in microseconds since 1970, and in RFC 3339; None if there is none."""
    if stored is None:
        return None, NEVER
    stamp = Timestamp.FromString(stored)
    micros = stamp.seconds * 1_000_000 + stamp.nanos // 1_000
    return micros, rfc3339(micros)


def rfc3339(micros: int) -> str:
    """Microseconds since 1970 as Feast writes them: no digits of the second, three or six."""
    seconds, rest = divmod(micros, 1_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if not rest:
        return text + "Z"
    return f"{text}.{rest // 1000:03d}Z" if not rest % 1000 else f"{text}.{rest:06d}Z"
