"""Vector search by text: the entities of a view whose texts mean most nearly the same."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.access import Caller, withhold
from serving.aside import Aside
from serving.plan import InvalidRequest, NotDeclared
from serving.request import TooLarge
from serving.snapshot import Snapshot
from serving.status import Status
from stores.errors import TooMuch
from stores.feast_protos import declared_keys, stored_view, vector_field
from stores.vector_filters import Filters, filtered
from stores.view import View

TEXT_CHARACTERS = 8_192
"""Of a text to search by: two thousand tokens and more, and the longest that most models take."""


class Held(Protocol):
    """What knows whose vectors a view holds."""

    def model(self, view: View) -> str:
        """The model whose vectors the view's table holds."""


class VectorIndex(Held, Protocol):
    """A store that is searched by vector: `stores.vectors.PgVectors`."""

    def search(
        self, view: View, vector: Any, top_k: int, filters: Filters | None = None, features: Sequence[str] | None = None
    ) -> pa.Table:
        """The nearest entities, nearest first, with those features (all but the vector if None) and `distance`."""


class TextModel(Protocol):
    """A model that turns texts into vectors: any of `streams.embedders`."""

    @property
    def model(self) -> str:
        """What the model is called wherever its vectors are."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of the texts, one a row."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Embeds the texts that a server is asked to search by, `aside` from all else: a provider that hangs keeps no read
    of the vector store waiting."""

    model: TextModel
    aside: Aside

    def look(self) -> None:
        """Raises `Overloaded` if there is no room for another text."""
        self.aside.look()

    async def vector(self, index: Held, view: View, text: str) -> np.ndarray:
        """The text as a vector that the view is searched by. Raises `InvalidRequest`, `Overloaded`, and what index and
        model raise."""
        if len(text) > TEXT_CHARACTERS:
            raise TooLarge(f"the text has {len(text)} characters; at most {TEXT_CHARACTERS} are embedded")
        try:
            return await self.aside.run(embedded, index, self.model, view, text)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error


def withhold_search(
    caller: Caller, view: View, personal: Collection[str], features: Sequence[str], filters: Filters | None = None
) -> None:
    """Raises `Forbidden` if the caller may not see all that a search shows or tells by: features, join keys, what is
    filtered on, and the vector searched by. `personal` are the view's fields that are personal data."""
    vector = (view.vector.name,) if view.vector is not None else ()
    used = dict.fromkeys((*features, *filtered(filters), *vector, *(key.name for key in view.join_keys)))
    withhold(caller, [f"{view.name}:{field}" for field in used if field in personal])


def vector_view(snapshot: Snapshot, name: str) -> View:
    """A view that is searched, as it is stored. Raises `NotDeclared` for one without a vector too."""
    declared = snapshot.view(name)
    if vector_field(declared) is None:
        raise NotDeclared(f"feature view {name!r} has no vector field to search by")
    return stored_view(snapshot.config, declared, declared_keys(declared))


def nearest(
    index: VectorIndex,
    view: View,
    vector: Any,
    top_k: int,
    filters: Filters | None = None,
    features: Sequence[str] | None = None,
) -> pa.Table:
    """As `VectorIndex.search`, whose refusals are those of a request: `TooLarge` and `InvalidRequest`."""
    try:
        return index.search(view, vector, top_k, filters, features)
    except TooMuch as error:
        raise TooLarge(f"{error}: search for fewer (top_k), or ask for fewer features") from error
    except pa.ArrowInvalid:  # a ValueError too, and not of the request; its words quote values
        raise
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


def search(
    index: VectorIndex, embedder: TextModel, view: View, text: str, top_k: int, filters: Filters | None = None
) -> pa.Table:
    """The `top_k` entities nearest to the text: join keys, features, `event_timestamp`, `distance`.

    `filters` is a `ComparisonFilter` or `CompoundFilter` of Feast over join keys and features. Raises
    `ValueError` if the view holds another model's vectors, for a text without meaning to the model and for a
    filter on an unknown field, and what index and embedder raise.
    """
    return nearest(index, view, embedded(index, embedder, view, text), top_k, filters)


def embedded(index: Held, embedder: TextModel, view: View, text: str) -> np.ndarray:
    """The text as a vector of the model whose vectors the view holds. Raises as `search`."""
    held = index.model(view)
    if held != embedder.model:
        raise ValueError(
            f"view {view.name} holds vectors of {held}, and texts are embedded by {embedder.model} here, the first "
            "provider of `embeddings`: vectors of two models do not compare; search by vector, or name the same model"
        )
    vector: np.ndarray = embedder.embed([text])[0]
    if not vector.any():
        raise ValueError(f"{text!r} means nothing to {embedder.model}: search for words")
    return vector


def outdated(view: View, found: pa.Table, now: float) -> list[bool]:
    """Of what was found, row for row: whether it is older than the view's `ttl` at `now` (seconds since 1970), and so
    nobody's to read, wherever features are read."""
    if view.ttl is None:
        return [False] * len(found)
    oldest = (now - view.ttl.total_seconds()) * 1e6
    moments = found["event_timestamp"].cast(pa.int64()).to_pylist()
    return [micros is not None and micros < oldest for micros in moments]


def current(view: View, found: pa.Table, now: float) -> tuple[pa.Table, list[str]]:
    """What was found without the features that are `outdated`, which are null, and a status a row."""
    old = outdated(view, found, now)
    for name in {feature.name for feature in view.features} & set(found.column_names):
        place = found.schema.get_field_index(name)
        column = pc.if_else(pa.array(old, pa.bool_()), pa.scalar(None, found[name].type), found[name])
        found = found.set_column(place, found.schema.field(place), column)
    return found, [(Status.OUTSIDE_MAX_AGE if is_old else Status.PRESENT).name for is_old in old]
