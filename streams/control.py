"""The control topic: what people ask of all workers of a project, wherever they run.

Each worker reads it beside its group, from the end on: who starts later has nothing to go on from. A record's
key is the table (its topic), its value a JSON object with `command`: "resume" is the only one.
"""

import logging

import orjson

from streams.broker import Follower, Producer

log = logging.getLogger(__name__)

RESUME = "resume"


class Control:
    """One worker's ear on the control topic."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def resumes(self) -> list[str]:
        """The tables that are to go on, asked for since this was last called; never waits."""
        tables = []
        for records in self._follower.poll():
            for key, value in zip(records.keys, records.values, strict=True):
                if _command(value) == RESUME and key is not None:
                    tables.append(key.decode(errors="replace"))
                else:
                    log.warning("%s: not a command: %.80r", records.topic, value, extra={"event": "control_unknown"})
        return tables

    def close(self) -> None:
        """Stop listening."""
        self._follower.close()


def ask_to_resume(producer: Producer, topic: str, table: str) -> None:
    """Ask every worker to go on with a table, by a record on the control topic. Raises `BrokerUnavailable`."""
    producer.send(topic, table.encode(), orjson.dumps({"command": RESUME}), {})
    producer.flush()


def _command(value: bytes | None) -> object:
    try:
        content = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    return content.get("command") if isinstance(content, dict) else None
