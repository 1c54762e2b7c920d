"""A dead letter on the real Kafka, and what replays of it send."""

import uuid
from dataclasses import dataclass
from pathlib import Path

from feast import Entity, FeatureStore, FeatureView, Field, ValueType
from feast.types import Int64, String

from millrace.declare import cdc_source
from streams.kafka import KafkaProducer, KafkaTopics
from streams.letters import REPLAY_OF, DeadLetters, Rejection
from streams.messages import Records

VALUE = b'{"after": {"id": 1, "tier": "<gold>"}}'
REASON = "expect_column_values_to_be_in_set on tier: '<gold>'"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Letter 0 of a project: `VALUE` at offset 5 of `table`, rejected for `REASON`."""

    kafka: str
    table: str

    @property
    def replayed(self) -> tuple[bytes, bytes]:
        """What one replay sends: the value, and what it says it is a replay of."""
        return VALUE, f"{self.table}/0/5".encode()

    def replays(self) -> list[tuple[bytes | None, bytes | None]]:
        """What was sent to the table's topic so far."""
        batches = KafkaTopics(self.kafka).read(self.table)
        return [
            (value, sent.headers[position][REPLAY_OF]) for sent in batches for position, value in enumerate(sent.values)
        ]


def capture(repo: Path, letter: DeadLetter) -> None:
    """Applies a view over the letter's table, as without one no worker would read its replay."""
    customer = Entity(name="customer", join_keys=["id"], value_type=ValueType.INT64)
    schema = [Field(name="id", dtype=Int64), Field(name="tier", dtype=String)]
    view = FeatureView(name="customers", entities=[customer], schema=schema, source=cdc_source(letter.table))
    FeatureStore(repo_path=str(repo)).apply([customer, view])


def send_letter(kafka: str, project: str) -> DeadLetter:
    """Sends the project's first letter."""
    letter = DeadLetter(kafka, f"shop.public.customers{uuid.uuid4().hex[:6]}")
    KafkaTopics(kafka).ensure({f"{project}.letters": 1, letter.table: 1}, {})
    records = Records(letter.table, [0], [5], [b'{"id": 1}'], [VALUE], {})
    letters = DeadLetters(KafkaProducer(kafka), f"{project}.letters")
    letters.send(records, [Rejection(0, "contract", (REASON,))], "1")
    letters.flush()
    return letter
