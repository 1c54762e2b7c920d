"""The configuration of a Feast repo that lies in one folder and needs no server."""

from pathlib import Path

from feast import RepoConfig


def local_feast(folder: Path) -> RepoConfig:
    """Of the project `shop`, with versions of views."""
    return RepoConfig(
        project="shop",
        provider="local",
        registry={"path": str(folder / "registry.db"), "enable_online_feature_view_versioning": True},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store={"type": "dask"},
        entity_key_serialization_version=3,
    )
