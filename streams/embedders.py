"""Embedding providers behind one Protocol, and the one door of the model library."""

import contextlib
import hashlib
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from email.message import Message
from pathlib import Path
from typing import Any, Protocol

import numpy as np

log = logging.getLogger(__name__)

PLAIN_WORD = "word"
"""A text that nothing is wrong with: a model that does not take it takes none."""

BUSY = 503
"""The one error of a server's own that is a matter of time, whatever the text."""

LIMITED = 429
"""The status of a limit: in time, or in how much one request may ask for."""

HUNG_UP = (BrokenPipeError, ConnectionResetError)
"""A connection that was there is closed while a request is being sent."""


class EmbedderUnavailable(Exception):
    """No vectors can be had now: the batch waits and is tried again. `made` holds the vectors of the first of the
    texts, as many as there are, so that nobody has to make them again."""

    def __init__(self, told: str, made: Sequence[np.ndarray] | np.ndarray = ()) -> None:
        super().__init__(told)
        self.made = made


class AnswerUnusable(EmbedderUnavailable):
    """The provider was asked, and gave no vectors: it is ill, or one of the texts is what makes it fail."""


class TextRefused(Exception):
    """The model does not take the text at `position`, because it is too long or for another reason of its
    own; others it takes. `made` holds the vectors of the first of the texts, as many before that one as there
    are, so that nobody has to make them again."""

    def __init__(self, position: int, reason: str, made: Sequence[np.ndarray] | np.ndarray = ()) -> None:
        super().__init__(f"text {position}: {reason}")
        self.position = position
        self.reason = reason
        self.made = made


class Embedder(Protocol):
    """A model that turns texts into vectors, each text by itself: its neighbours change nothing.

    `model` names the model so that equal names and lengths mean equal vectors; `length` is the number of
    dimensions.
    """

    @property
    def model(self) -> str: ...

    @property
    def length(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of the texts: float32, shape (len(texts), length), finite. A text that means nothing to
        the model may get a vector of zeros. Raises `EmbedderUnavailable`, `TextRefused`."""


class WordLlamaEmbedder:
    """WordLlama's `l2_supercat` from the weights in its package: unit vectors of 256 dimensions, offline.

    A text's vector is the mean of the vectors of its tokens, scaled to length 1. `model` ends in a digest
    of weights and vocabulary, so that an upgrade of the package that changes vectors is another model.
    Raises `EmbedderUnavailable` when the package or its weights are missing.
    """

    _CONFIG = "l2_supercat"
    _CHARACTERS = 1 << 20  # what the tokenizer makes of a text is twenty times as large, and more
    _TOKENS = 1 << 12  # the token vectors of a step fit the processor's cache, however long the texts are

    length = 256

    def __init__(self) -> None:
        library, folder = _wordllama()
        files = (
            folder / "weights" / f"{self._CONFIG}_{self.length}.safetensors",
            folder / "tokenizers" / f"{self._CONFIG}_tokenizer_config.json",
        )
        digest = hashlib.blake2b(digest_size=4)
        try:
            for file in files:
                digest.update(file.read_bytes())
        except OSError as error:
            raise EmbedderUnavailable(f"WordLlama's package lacks its weights: {error}") from error
        # Without cache_dir it looks for the tokenizer elsewhere, and then on the network.
        loaded = library.WordLlama.load(self._CONFIG, cache_dir=folder, dim=self.length, disable_download=True)
        self.model = f"wordllama/{self._CONFIG}-{self.length}-{digest.hexdigest()}"
        self._vectors: np.ndarray = loaded.embedding
        self._tokenizer = loaded.tokenizer
        self._tokenizer.no_padding()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.empty((len(texts), self.length), np.float32)
        for start, end in _steps(list(map(len, texts)), self._CHARACTERS):
            vectors[start:end] = self._embedded(texts[start:end])
        return vectors

    def _embedded(self, texts: Sequence[str]) -> np.ndarray:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        tokens = [np.asarray(e.ids, np.int64) for e in encoded]
        vectors = np.zeros((len(texts), self.length), np.float32)
        for start, end in _steps([len(ids) for ids in tokens], self._TOKENS):
            vectors[start:end] = self._means(tokens[start:end])
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, norms, out=vectors, where=norms > 0)
        return vectors

    def _means(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        """The mean token vector of each text, zeros for a text without tokens."""
        lengths = np.array([len(ids) for ids in tokens])
        sums = np.zeros((len(tokens), self.length))
        filled = np.flatnonzero(lengths)
        if len(tokens) == 1:
            for i in range(0, int(lengths[0]), self._TOKENS):
                sums[0] += self._vectors[tokens[0][i : i + self._TOKENS]].sum(axis=0, dtype=np.float64)
        elif len(filled):
            starts = (np.cumsum(lengths) - lengths)[filled]
            sums[filled] = np.add.reduceat(self._vectors[np.concatenate(tokens)], starts, axis=0, dtype=np.float64)
        sums /= np.maximum(lengths, 1)[:, None]
        return sums


class HttpEmbedder:
    """A server with OpenAI's `POST <url>/embeddings` (OpenAI itself, vLLM, text-embeddings-inference, ...).

    `url` ends where `/embeddings` begins, as in `https://api.openai.com/v1`; `model` and `length` are sent
    as `model` and, if `dimensions`, as `dimensions`. At most `batch` texts a request, `timeout` in seconds
    for connecting and for each read. The request: https://platform.openai.com/docs/api-reference/embeddings

    A request that fails for what may be its size is followed by one of half as many texts, down to one; an answer
    within half of the time by one of twice as many again.
    """

    def __init__(
        self,
        url: str,
        model: str,
        length: int,
        *,
        api_key: str | None = None,
        dimensions: bool = False,
        batch: int,
        timeout: float,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"an embedding server's URL begins with http:// or https://, not {url!r}")
        self.model = model
        self.length = length
        self._url = url.rstrip("/") + "/embeddings"
        self._dimensions = dimensions
        self._batch = batch
        self._at_once = batch
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.empty((len(texts), self.length), np.float32)
        start = 0
        while start < len(texts):
            end = min(start + self._at_once, len(texts))
            self._embed(texts, start, end, vectors)
            start = end
        return vectors

    def _embed(self, texts: Sequence[str], start: int, end: int, vectors: np.ndarray) -> None:
        """One request for the vectors from `start` to `end`, those before being there; when the server refuses its
        input, halves of it, until the refused text is alone."""
        try:
            vectors[start:end] = self._asked(texts[start:end], vectors[:start])
        except _InputRefused as error:
            if end - start > 1:
                half = (start + end) // 2
                self._embed(texts, start, half, vectors)
                self._embed(texts, half, end, vectors)
                return
            self._check_settings(vectors[:start])
            raise TextRefused(start, str(error), vectors[:start]) from error

    def _check_settings(self, made: np.ndarray) -> None:
        """A server that refuses one plain word too refuses the request's settings, not the text."""
        try:
            self._asked([PLAIN_WORD], made)
        except _InputRefused as error:
            raise EmbedderUnavailable(
                f"{error}: check the model, its length and `dimensions` in the settings", made
            ) from error

    def _asked(self, texts: Sequence[str], made: np.ndarray) -> np.ndarray:
        """As `_request`; what was made before goes with its error. Notes how many to ask for next."""
        begun = time.monotonic()
        try:
            vectors = self._request(texts)
        except EmbedderUnavailable as error:
            if isinstance(error, AnswerUnusable | _TooMuch):
                self._at_once = max(1, len(texts) // 2)
            error.made = made
            raise
        if len(texts) >= self._at_once and time.monotonic() - begun < self._timeout / 2:
            self._at_once = min(2 * self._at_once, self._batch)
        return vectors

    def _request(self, texts: Sequence[str]) -> np.ndarray:
        body: dict[str, Any] = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        if self._dimensions:
            body["dimensions"] = self.length
        status, headers, answer = self._post(json.dumps(body).encode())
        if status < 400:
            return self._vectors(answer, len(texts))
        told = f"{self._url} answered {status}: {answer[:500].decode(errors='replace')}"
        if status in (400, 413, 422):
            raise _InputRefused(told)
        if status == LIMITED and "Retry-After" not in headers:
            raise _TooMuch(told)
        raise (AnswerUnusable if status >= 500 and status != BUSY else EmbedderUnavailable)(told)

    def _post(self, body: bytes) -> tuple[int, Message, bytes]:
        """Status, headers and body of the answer."""
        request = urllib.request.Request(self._url, body, headers=self._headers, method="POST")
        try:
            try:
                response = urllib.request.urlopen(request, timeout=self._timeout)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                return response.status, response.headers, response.read()
        except (OSError, http.client.HTTPException) as error:
            # urllib wraps what fails before the request is sent, and nothing that fails after it.
            sent = not isinstance(error, urllib.error.URLError) or isinstance(error.reason, HUNG_UP)
            raise (AnswerUnusable if sent else EmbedderUnavailable)(f"{self._url} does not answer: {error}") from error

    def _vectors(self, answer: bytes, count: int) -> np.ndarray:
        """The vectors of an answer in the order of its indices."""
        try:
            data = json.loads(answer)["data"]
            by_index = {int(item["index"]): item["embedding"] for item in data}
            vectors = np.array([by_index[i] for i in range(count)], np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise AnswerUnusable(f"{self._url} answered something else than {count} vectors: {error!r}") from error
        if vectors.shape != (count, self.length):
            raise AnswerUnusable(
                f"{self._url} gives vectors of shape {vectors.shape[1:]}, not of length {self.length}: "
                "set `length` to the model's, or ask for fewer with `dimensions`"
            )
        if not np.isfinite(vectors).all():
            raise AnswerUnusable(f"{self._url} gives vectors that are not finite")
        return vectors


class Providers:
    """Providers in order of preference; the first one's model is the model.

    When one is unavailable the next answers, from the text on at which that one stopped, if it gives the same model's
    vectors: the same `model` and `length`. Otherwise `EmbedderUnavailable` is raised with what each one said;
    `AnswerUnusable` if each one answered.
    """

    def __init__(self, providers: Sequence[Embedder]) -> None:
        if not providers:
            raise ValueError("name at least one embedding provider")
        self.model = providers[0].model
        self.length = providers[0].length
        self._providers = tuple(providers)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        told, failures = [], list[EmbedderUnavailable]()
        made: Sequence[np.ndarray] | np.ndarray = ()
        for provider in self._providers:
            if (provider.model, provider.length) != (self.model, self.length):
                told.append(f"{provider.model} ({provider.length}) would give another model's vectors")
                continue
            try:
                return _embed_rest(provider, texts, made)
            except EmbedderUnavailable as error:
                made = error.made
                failures.append(error)
                failed = "an embedding provider of %s failed: %s"
                log.warning(failed, self.model, error, extra={"event": "provider_failed"})
                told.append(str(error))
        failure = AnswerUnusable if all(isinstance(f, AnswerUnusable) for f in failures) else EmbedderUnavailable
        raise failure(f"no provider of {self.model} ({self.length}): {'; '.join(told)}", made)


def _embed_rest(provider: Embedder, texts: Sequence[str], made: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The vectors of all texts, of which those of the first were `made`. What is raised counts these, too."""
    if not len(made):
        return provider.embed(texts)
    try:
        return np.concatenate([made, provider.embed(texts[len(made) :])])
    except TextRefused as error:
        raise TextRefused(len(made) + error.position, error.reason, [*made, *error.made]) from error
    except EmbedderUnavailable as error:
        error.made = [*made, *error.made]
        raise


class _InputRefused(Exception):
    """The server says that it does not take this input."""


class _TooMuch(EmbedderUnavailable):
    """The server takes no more now, or not as much in one request: it does not say which."""


def _steps(sizes: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Cut a sequence into runs whose sizes sum to at most `limit`; one larger than that runs alone."""
    start = total = 0
    for end, size in enumerate(sizes):
        if end > start and total + size > limit:
            yield start, end
            start, total = end, 0
        total += size
    if sizes:
        yield start, len(sizes)


def _wordllama() -> tuple[Any, Path]:
    """The library and its package folder."""
    try:
        with _root_logger_untouched():
            import wordllama
    except ImportError as error:
        raise EmbedderUnavailable(f"WordLlama cannot be imported: {error}") from error
    return wordllama, Path(wordllama.__file__).parent


@contextlib.contextmanager
def _root_logger_untouched() -> Iterator[None]:
    """WordLlama configures the root logger when it is imported: undo that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
