"""The texts of searches as a server embeds them: what a provider's failures mean to whoever asked."""

from collections.abc import Sequence

import numpy as np

from stores.errors import StoreUnavailable
from streams.embedders import Embedder, EmbedderUnavailable, TextRefused


class QueryTexts:
    """A `serving.search.TextModel` of an embedder."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def model(self) -> str:
        """As the embedder's."""
        return self._embedder.model

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """As `Embedder.embed`. Raises `StoreUnavailable`, and `ValueError` for a text that the model does not take,
        without the provider's words: they may quote it."""
        try:
            return self._embedder.embed(texts)
        except EmbedderUnavailable as error:
            raise StoreUnavailable("the embedding provider", str(error)) from error
        except TextRefused:
            raise ValueError(
                f"{self.model} does not take this text: it may be too long for the model; search for fewer words"
            ) from None
