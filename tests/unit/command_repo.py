"""A repo in one folder that commands can open, whose servers are nowhere."""

from pathlib import Path

from feast import Entity, FeatureStore, FeatureView, Field, ValueType
from feast.types import Int64, String

from millrace.declare import cdc_source


def command_repo(folder: Path) -> None:
    """Writes its `millrace.yaml` and `feature_store.yaml`: the project and its one source are `shop`."""
    (folder / "millrace.yaml").write_text(
        "sources: {shop: {url: 'postgresql://user:password@nowhere:5432/shop'}}\n"
        "kafka: {bootstrap_servers: 'nowhere:9092'}\nconnect: {url: 'http://nowhere'}\n"
        "worker: {health_port: 0}\n"
    )
    (folder / "feature_store.yaml").write_text(
        f"project: shop\nprovider: local\nregistry: {folder}/registry.db\n"
        f"online_store: {{type: sqlite, path: {folder}/online.db}}\n"
        f"offline_store: {{type: stores.feast_offline.LakeOfflineStore, path: {folder}/lake}}\n"
        "entity_key_serialization_version: 3\n"
    )


def capture(folder: Path, table: str) -> None:
    """Applies a view `orders` over a table with `id` and `customer`."""
    order = Entity(name="order", join_keys=["id"], value_type=ValueType.INT64)
    schema = [Field(name="id", dtype=Int64), Field(name="customer", dtype=String)]
    view = FeatureView(name="orders", entities=[order], schema=schema, source=cdc_source(table))
    FeatureStore(repo_path=str(folder)).apply([order, view])
