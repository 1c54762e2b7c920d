"""The embedding providers: the packaged model, an HTTP server, and their order."""

import contextlib
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.embedders import (
    AnswerUnusable,
    Embedder,
    EmbedderUnavailable,
    Providers,
    TextRefused,
    WordLlamaEmbedder,
)
from tests.embedding_server import Server, embedding_server, http_embedder, in_order, vector_of

NINE = b"Content-Length: 9\r\n\r\n"


@pytest.fixture(scope="module")
def wordllama() -> WordLlamaEmbedder:
    return WordLlamaEmbedder()


class TestWordLlama:
    def test_its_vectors(self, wordllama: WordLlamaEmbedder) -> None:
        vectors = wordllama.embed(["a runway for aeroplanes", "aircraft landing strip", "chocolate cake"])
        assert vectors.shape == (3, wordllama.length) and vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]

    def test_they_are_those_of_the_library(self, wordllama: WordLlamaEmbedder) -> None:
        from pathlib import Path

        import wordllama as library

        folder = Path(library.__file__).parent
        model = library.WordLlama.load(cache_dir=folder, disable_download=True)
        texts = [f"text {i} of the {'long ' * i}kind" for i in range(100)]
        assert np.allclose(wordllama.embed(texts), model.embed(texts, norm=True), atol=1e-6)

    def test_its_model_is_one_and_the_same(self, wordllama: WordLlamaEmbedder) -> None:
        assert WordLlamaEmbedder().model == wordllama.model
        assert wordllama.model.startswith("wordllama/l2_supercat-256-")

    def test_nothing_and_texts_without_tokens(self, wordllama: WordLlamaEmbedder) -> None:
        assert wordllama.embed([]).shape == (0, 256)
        assert not wordllama.embed([""]).any()
        mixed = wordllama.embed(["", "a word", ""])
        assert mixed.any(axis=1).tolist() == [False, True, False]

    def test_a_very_long_text(self, wordllama: WordLlamaEmbedder) -> None:
        long = "a harbour for sailing boats " * 5_000
        vectors = wordllama.embed(["short", long, "short"])
        assert vectors[1] == pytest.approx(wordllama.embed([long])[0], abs=1e-6)
        assert vectors[1] @ wordllama.embed(["a harbour for sailing boats"])[0] > 0.99
        assert (vectors[0] == vectors[2]).all()
        assert (wordllama.embed(["short", long] * 10) == np.tile(vectors[:2], (10, 1))).all()

    @settings(max_examples=50)
    @given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=8))
    def test_neighbours_change_nothing(self, wordllama: WordLlamaEmbedder, texts: list[str]) -> None:
        alone = np.concatenate([wordllama.embed([text]) for text in texts])
        assert (wordllama.embed(texts) == alone).all()

    def test_the_root_logger_stays_as_it_was(self) -> None:
        code = (
            "import logging; from streams.embedders import WordLlamaEmbedder; WordLlamaEmbedder();"
            "root = logging.getLogger(); print(root.handlers, root.level)"
        )
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert answer.stdout.strip() == f"[] {logging.WARNING}"


@pytest.fixture
def server() -> Iterator[Server]:
    with embedding_server() as running:
        yield running


class TestHttp:
    def test_a_request(self, server: Server) -> None:
        embedder = http_embedder(server.url + "/", "a-model", 3, api_key="key", dimensions=True)
        vectors = embedder.embed(["one", "three", "Ä 😀"])
        assert vectors.dtype == np.float32
        assert vectors.tolist() == [vector_of("one"), vector_of("three"), vector_of("Ä 😀")]
        assert server.paths == ["/v1/embeddings"]
        assert server.headers[0]["authorization"] == "Bearer key"
        assert server.requests == [
            {"model": "a-model", "input": ["one", "three", "Ä 😀"], "encoding_format": "float", "dimensions": 3}
        ]

    def test_what_is_not_set_is_not_sent(self, server: Server) -> None:
        http_embedder(server.url, "a-model", 3).embed(["one"])
        assert "authorization" not in server.headers[0]
        assert "dimensions" not in server.requests[0]

    def test_batches(self, server: Server) -> None:
        texts = ["x" * i for i in range(1, 8)]
        vectors = http_embedder(server.url, "a-model", 3, batch=3).embed(texts)
        assert [len(request["input"]) for request in server.requests] == [3, 3, 1]
        assert vectors.tolist() == [vector_of(text) for text in texts]
        assert http_embedder(server.url, "a-model", 3).embed([]).shape == (0, 3)

    @pytest.mark.parametrize(
        ("status", "body", "told"),
        [
            (500, {"error": "out of memory"}, "answered 500.*out of memory"),
            (429, {"error": "slow down"}, "answered 429.*slow down"),
            (401, {"error": "no such key"}, "answered 401"),
            (404, {"error": "no such model"}, "answered 404"),
            (200, b"<html>", "something else than 1 vectors"),
            (200, {"data": []}, "something else"),
            (200, {"data": [{"index": 1, "embedding": [1, 2, 3]}]}, "something else"),
            (200, {"data": [{"index": 0, "embedding": ["a", "b", "c"]}]}, "something else"),
            (200, {"data": [{"index": 0, "embedding": [1, 2]}]}, "not of length 3"),
            (200, b'{"data": [{"index": 0, "embedding": [1, 2, NaN]}]}', "not finite"),
        ],
    )
    def test_an_answer_that_is_none(self, server: Server, status: int, body: Any, told: str) -> None:
        server.answer = lambda _: (status, body)
        with pytest.raises(EmbedderUnavailable, match=told):
            http_embedder(server.url, "a-model", 3).embed(["one"])

    def test_nobody_there(self) -> None:
        """Refused, or of no answer to the first packet: no text was seen by anyone."""
        with pytest.raises(EmbedderUnavailable, match="does not answer") as refused:
            http_embedder("http://127.0.0.1:1/v1", "a-model", 3).embed(["one"])
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
            address = full.getsockname()
            with pytest.raises(TimeoutError):
                while True:
                    waiting.enter_context(socket.create_connection(address, timeout=0.2))
            with pytest.raises(EmbedderUnavailable, match=r"does not answer.*timed out") as silent:
                http_embedder(f"http://127.0.0.1:{address[1]}", "a-model", 3, timeout=0.2).embed(["one"])
        assert not isinstance(refused.value, AnswerUnusable) and not isinstance(silent.value, AnswerUnusable)

    @pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\n" + NINE + b"{", b"HTTP/1.1 500 ill\r\n" + NINE])
    @pytest.mark.parametrize("seconds", [0.0, 10.0])
    @pytest.mark.parametrize("text", ["one", "a text that is not read to its end" * 1_000_000])
    def test_an_answer_that_does_not_come_to_its_end(self, begun: bytes, seconds: float, text: str) -> None:
        """The connection is closed, or nothing more comes for some time."""
        over = threading.Event()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(begun)
                over.wait(seconds)

        with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as executor:
            executor.submit(answer)
            embedder = http_embedder(f"http://127.0.0.1:{listening.getsockname()[1]}", "a-model", 3, timeout=0.3)
            with pytest.raises(EmbedderUnavailable) as raised:
                embedder.embed([text])
            over.set()
        assert isinstance(raised.value, AnswerUnusable) or (seconds and len(text) > 10)

    def test_nobody_answering(self, server: Server) -> None:
        answered = threading.Event()

        def never(_: dict[str, Any]) -> tuple[int, Any]:
            answered.wait(10)
            return 200, {}

        server.answer = never
        try:
            with pytest.raises(AnswerUnusable, match=r"does not answer.*timed out"):
                http_embedder(server.url, "a-model", 3, timeout=0.2).embed(["one"])
        finally:
            answered.set()

    def test_the_text_that_is_refused_is_found(self, server: Server) -> None:
        def limited(request: dict[str, Any]) -> tuple[int, Any]:
            if any(len(text) > 5 for text in request["input"]):
                return 400, {"error": "maximum context length is 5"}
            return in_order(request)

        server.answer = limited
        embedder = http_embedder(server.url, "a-model", 3, batch=4)
        with pytest.raises(TextRefused, match="maximum context length") as raised:
            embedder.embed(["one", "two", "three", "four", "five", "too long", "six"])
        assert raised.value.position == 5
        made = [vector_of(text) for text in ("one", "two", "three", "four", "five")]
        assert np.asarray(raised.value.made).tolist() == made

    def test_settings_that_the_server_refuses_are_not_the_texts_fault(self, server: Server) -> None:
        server.answer = lambda _: (400, {"error": "dimensions are not supported"})
        with pytest.raises(EmbedderUnavailable, match=r"dimensions are not supported.*check the model"):
            http_embedder(server.url, "a-model", 3, dimensions=True).embed(["one", "two"])

    def test_what_is_no_address(self) -> None:
        with pytest.raises(ValueError, match="begins with http"):
            http_embedder("file:///etc/passwd", "a-model", 3)


class Fixed:
    """A provider of its own making, which can fail."""

    def __init__(self, model: str, length: int, value: float, failure: str | None = None) -> None:
        self.model, self.length, self.value, self.failure, self.calls = model, length, value, failure, 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls += 1
        if self.failure:
            raise EmbedderUnavailable(self.failure)
        return np.full((len(texts), self.length), self.value, np.float32)


class TestProviders:
    def test_the_first_answers(self) -> None:
        first, second = Fixed("a", 2, 1), Fixed("a", 2, 2)
        providers: Embedder = Providers([first, second])
        assert (providers.model, providers.length) == ("a", 2)
        assert providers.embed(["x"]).tolist() == [[1, 1]]
        assert second.calls == 0

    def test_when_it_fails_the_next_of_the_same_model_answers(self) -> None:
        other, longer, same = Fixed("b", 2, 2), Fixed("a", 3, 3), Fixed("a", 2, 4)
        providers = Providers([Fixed("a", 2, 1, "down"), other, longer, same])
        assert providers.embed(["x"]).tolist() == [[4, 4]]
        assert (other.calls, longer.calls) == (0, 0)

    def test_when_none_of_the_same_model_answers_the_batch_waits(self) -> None:
        providers = Providers([Fixed("a", 2, 1, "is down"), Fixed("b", 2, 2), Fixed("a", 2, 3, "is full")])
        with pytest.raises(EmbedderUnavailable, match=r"no provider of a \(2\): is down; b \(2\).*another.*is full"):
            providers.embed(["x"])

    def test_the_first_is_asked_again_afterwards(self) -> None:
        first = Fixed("a", 2, 1, "down")
        providers = Providers([first, Fixed("a", 2, 2)])
        providers.embed(["x"])
        first.failure = None
        assert providers.embed(["x"]).tolist() == [[1, 1]]

    def test_a_server_beside_the_packaged_model(self, server: Server, wordllama: WordLlamaEmbedder) -> None:
        def serve(request: dict[str, Any]) -> tuple[int, Any]:
            vectors = wordllama.embed(request["input"]).tolist()
            return 200, {"data": [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]}

        server.answer = serve
        remote = http_embedder(server.url, wordllama.model, wordllama.length)
        assert (remote.embed(["a word"]) == wordllama.embed(["a word"])).all()
        server.answer = lambda _: (503, {})
        assert Providers([remote, wordllama]).embed(["a word"]).shape == (1, 256)

    def test_without_providers(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            Providers([])
