"""The one thing that a feature repo imports besides Feast."""

from collections.abc import Mapping

from feast import KafkaSource
from feast.data_format import JsonFormat

from connectors.table import topic
from stores.feast_lake import LakeSource
from streams.declarations import COMMIT_TIME, TABLE_TAG


def cdc_source(
    table: str,
    *,
    event_time: str | None = None,
    field_mapping: Mapping[str, str] | None = None,
    name: str | None = None,
    description: str = "",
    tags: Mapping[str, str] | None = None,
) -> KafkaSource:
    """A captured PostgreSQL table as a Feast source: a plain `KafkaSource` with its table in the lake.

    `table` is `<source>.<schema>.<table>`: the source as `millrace.yaml` names it, schema and table as
    PostgreSQL spells them, without quotes. It is also the topic, with "_" for what a topic's name cannot hold.
    `event_time` names the column of the event time; without one it is the commit time in PostgreSQL.
    `field_mapping` renames columns (`{"wind_speed": "wind"}`), as in every Feast source.
    `name` is needed only for a second source on the same table.
    """
    if table.count(".") < 2:
        raise ValueError(f"cdc_source({table!r}): write <source>.<schema>.<table>, such as nyc.public.flights")
    source, schema, bare = table.split(".", 2)
    changes = topic(source, schema, bare)
    spelled = {TABLE_TAG: f"{schema}.{bare}"} if changes != table else {}
    label = name or table
    timestamp = event_time or COMMIT_TIME
    created = COMMIT_TIME if event_time else ""
    lake = LakeSource(
        name=f"{label}.lake",
        table=f"changes/{changes}",
        timestamp_field=timestamp,
        created_timestamp_column=created,
        field_mapping=dict(field_mapping or {}),
    )
    return KafkaSource(
        name=label,
        topic=changes,
        kafka_bootstrap_servers="",
        message_format=JsonFormat(schema_json=""),
        timestamp_field=timestamp,
        created_timestamp_column=created,
        field_mapping=dict(field_mapping or {}),
        batch_source=lake,
        description=description,
        tags={**(tags or {}), **spelled},
    )
