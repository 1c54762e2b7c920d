"""Online features of a server without a vector store, over any store of hashes."""

from serving.aside import Aside
from serving.features import OnlineFeatures, Reads
from serving.scales import Scales


class Connected:
    """A connection to a store of hashes that is always there."""

    ready = True

    async def start(self) -> None:
        """Nothing is to connect."""

    async def close(self) -> None:
        """Nothing is to disconnect."""


def online_features(reads: Reads, large: int = 1_000, stored_bytes: int = 1_000) -> OnlineFeatures:
    """Reads `large` values at once for large requests, and `stored_bytes` for one."""
    cells = Scales("large requests", large, 1, 1)
    return OnlineFeatures(reads, None, Aside("vectors", 1, 1), Aside("on-demand views", 1, 1), cells, stored_bytes)
