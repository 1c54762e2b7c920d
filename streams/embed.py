"""Text columns to a vector column: only texts that the vector store does not know yet are embedded."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.rows import EMBEDDING, FeatureRows
from stores.view import Vector, View
from streams.changes import Changes
from streams.embedders import PLAIN_WORD, AnswerUnusable, Embedder, EmbedderUnavailable, TextRefused
from streams.views import Projected, Unprojectable

TRIES = 10
"""So often a provider fails at the same text until that text is suspected: of tries in `Patience`'s rhythm, ten
seconds. What is ill for a shorter time was not ill for a text."""


class KnownVectors(Protocol):
    """Where vectors are kept under the hash of what they were made of: the vector store."""

    def embedded(self, view: View, hashes: Sequence[bytes]) -> Mapping[bytes, np.ndarray]:
        """The vectors (float32) of those text hashes that the view's table holds."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Projected rows with their vectors. `embedded` counts the texts that went to the model, `spared` the
    rows that had a text and needed no embedding of their own: the store knew it, or the batch repeats it."""

    projected: Projected
    embedded: int
    spared: int


@dataclass(slots=True)
class Made:
    """What became of texts, by their hash, in one pass or try after the other: their `vectors`, and why those that were
    `refused` were. `failed` counts the tries in a row that ended at the same text, with an answer that was none."""

    vectors: dict[bytes, np.ndarray] = field(default_factory=dict)
    refused: dict[bytes, str] = field(default_factory=dict)
    failed: int = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self.vectors or key in self.refused

    def keep(self, hashes: Sequence[bytes], vectors: Sequence[np.ndarray] | np.ndarray) -> None:
        """Note the vectors of the first of these texts: copies, which hold no larger array."""
        self.vectors.update(zip(hashes, np.array(vectors, np.float32), strict=False))

    def note(self, error: EmbedderUnavailable) -> None:
        """Count a try that ended with this."""
        if len(error.made):
            self.failed = 0
        self.failed += isinstance(error, AnswerUnusable)


def embed(
    projected: Projected,
    changes: Changes,
    embedder: Embedder,
    known: KnownVectors,
    made: Made,
) -> Embedded:
    """Fill the vector field of a view's rows and append the columns of `stores.rows.EMBEDDING`.

    `changes` are those that the rows were projected from. A row's text is its change's text columns joined
    by a newline, nulls as empty; a deleted row, a blank text and one that means nothing to the model have
    no vector. A kept vector is found by the hash of its text and model, never by its entity, so it cannot
    meet another text or another model. What `made` holds under a text's hash is not made again, and what is
    made is put there, also where others are refused or the model fails: it is for the next pass over the same changes,
    and for the next try.
    Raises `EmbedderUnavailable`, `Unprojectable` for the changes whose text the model refuses, and `ValueError`
    when the view declares another length than the model's.
    """
    view = projected.rows.view
    vector = _declared(view, embedder)
    coded = _texts(projected, changes, vector).dictionary_encode()
    distinct = coded.dictionary.to_pylist()
    hashes = hash_texts(distinct, embedder)
    kept = known.embedded(view, hashes) if hashes else {}
    new = [code for code, key in enumerate(hashes) if key not in kept]
    unmade = [code for code in new if hashes[code] not in made]
    _embed_all([hashes[code] for code in unmade], [distinct[code] for code in unmade], embedder, made)
    if refused := {code: made.refused[hashes[code]] for code in new if hashes[code] in made.refused}:
        raise Unprojectable(_by_change(refused, coded.indices, projected.positions, view))
    vectors = np.zeros((len(distinct), embedder.length), np.float32)
    for code, key in enumerate(hashes):
        vectors[code] = kept[key] if key in kept else made.vectors[key]
    filled = _fill(projected.rows.table, vector, coded.indices, vectors, hashes, embedder.model)
    spared = len(coded) - coded.null_count - len(new)
    return Embedded(replace(projected, rows=FeatureRows(view, filled)), len(new), spared)


def text_hashes(projected: Projected, changes: Changes, embedder: Embedder) -> pa.Array:
    """What `_text_hash` of the rows will be once they are embedded: nothing is embedded for it. Raises `ValueError` as
    `embed`."""
    coded = _texts(projected, changes, _declared(projected.rows.view, embedder)).dictionary_encode()
    return pa.array(hash_texts(coded.dictionary.to_pylist(), embedder), EMBEDDING[0].type).take(coded.indices)


def join_texts(rows: pa.Table, vector: Vector) -> pa.Array:
    """The text of each row: the vector's columns joined by a newline, nulls as empty."""
    columns = [rows[name].cast(pa.string()) for name in vector.columns]
    return pc.binary_join_element_wise(*columns, "\n", null_handling="replace", null_replacement="")


def hash_texts(texts: Sequence[str], embedder: Embedder) -> list[bytes]:
    """For each text 16 bytes that stand for it and for the model: BLAKE2b of both and the length."""
    base = hashlib.blake2b(f"{embedder.model}\0{embedder.length}\0".encode(), digest_size=16)
    hashes = []
    for text in texts:
        digest = base.copy()
        digest.update(text.encode())
        hashes.append(digest.digest())
    return hashes


def _declared(view: View, embedder: Embedder) -> Vector:
    """The view's vector, if it is what the model gives."""
    if view.vector is None:
        raise ValueError(f"view {view.name} has no vector field")
    if view.vector.length != embedder.length:
        raise ValueError(
            f"view {view.name} declares vectors of length {view.vector.length}, and {embedder.model} gives "
            f"{embedder.length}: declare vector_length={embedder.length}, or name another model"
        )
    return view.vector


def _texts(projected: Projected, changes: Changes, vector: Vector) -> pa.Array:
    """The text of each row; null where it is blank or the row is deleted."""
    texts = join_texts(changes.rows.take(pa.array(projected.positions, pa.int64())), vector)
    blank = pc.equal(pc.utf8_trim_whitespace(texts), "")
    texts = pc.if_else(pc.or_(blank, projected.rows.table["_deleted"]), None, texts)
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


def _embed_all(hashes: Sequence[bytes], texts: Sequence[str], embedder: Embedder, made: Made) -> None:
    """Put the vectors of the texts into `made`, and why the model refuses those that it does.

    A provider that goes on failing at one text is asked for the first without a vector alone, and for less and less of
    the others at once, as long as it does take a plain word.
    """
    suspected = made.failed >= TRIES
    open_runs = [(0, len(texts))] if texts else []
    while open_runs:
        start, end = open_runs.pop()
        alone = suspected and end - start == 1
        try:
            vectors = _embed_suspect(texts[start], embedder) if alone else embedder.embed(texts[start:end])
        except TextRefused as error:
            made.keep(hashes[start:end], error.made)
            at, begun = start + error.position, start + len(error.made)
            made.refused[hashes[at]] = error.reason
            open_runs += [run for run in ((at + 1, end), (begun, at)) if run[0] < run[1]]
        except EmbedderUnavailable as error:
            made.keep(hashes[start:end], error.made)
            made.note(error)
            if alone or not (suspected and isinstance(error, AnswerUnusable)):
                raise
            embedder.embed([PLAIN_WORD])  # of an outage this is the end
            begun = start + len(error.made)
            half = (begun + end + 1) // 2
            open_runs += [run for run in ((half, end), (begun + 1, half), (begun, begun + 1)) if run[0] < run[1]]
        else:
            made.keep(hashes[start:end], vectors)


def _embed_suspect(text: str, embedder: Embedder) -> np.ndarray:
    """The vector of a text that the provider failed at so often. It is refused if the provider fails at it twice, each
    time between two plain words that it takes: an outage that ends or begins just then is not for the text, nor is one
    of a single answer."""
    embedder.embed([PLAIN_WORD])
    with suppress(AnswerUnusable):
        return embedder.embed([text])
    embedder.embed([PLAIN_WORD])
    try:
        return embedder.embed([text])
    except AnswerUnusable as error:
        embedder.embed([PLAIN_WORD])
        raise TextRefused(0, str(error)) from error


def _by_change(refused: Mapping[int, str], codes: pa.Array, positions: np.ndarray, view: View) -> dict[int, list[str]]:
    """The refused texts, given by dictionary code, as reasons by the position of their change."""
    bad: dict[int, list[str]] = {}
    for code, why in refused.items():
        rows = np.flatnonzero(pc.fill_null(pc.equal(codes, code), False))
        for position in positions[rows]:
            bad[int(position)] = [f"view {view.name}: its text cannot be embedded: {why}"]
    return bad


def _fill(
    table: pa.Table,
    vector: Vector,
    codes: pa.Array,
    vectors: np.ndarray,
    hashes: Sequence[bytes],
    model: str,
) -> pa.Table:
    """The table with each row's vector, hash and model, found by the code of its text."""
    meaningless = np.logical_not(vectors.any(axis=1))
    valid = np.asarray(codes.is_valid())
    at = np.asarray(codes.fill_null(0), np.int64)
    present = valid.copy()
    if len(vectors):
        present &= ~meaningless[at]
    lengths = np.where(present, vectors.shape[1], 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = pa.array(vectors[at[present]].reshape(-1), pa.float32())
    column = pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~present))
    place = table.schema.get_field_index(vector.name)
    field = table.schema.field(place)
    table = table.set_column(place, field, column.cast(field.type))
    hash_column = pa.array(hashes, EMBEDDING[0].type).take(codes)
    model_column = pa.array([model], pa.string()).take(pa.array(at * 0, mask=~valid))
    return table.append_column(EMBEDDING[0], hash_column).append_column(EMBEDDING[1], model_column)
