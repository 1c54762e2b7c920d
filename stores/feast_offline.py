"""(thin version)"""

from typing import Literal
from feast.infra.offline_stores.dask import DaskOfflineStore
from feast.repo_config import FeastConfigBaseModel


class LakeOfflineStoreConfig(FeastConfigBaseModel):
    type: str = "stores.feast_offline.LakeOfflineStore"
    path: str
    storage_options: dict[str, str] = {}


class LakeOfflineStore(DaskOfflineStore):
    pass
