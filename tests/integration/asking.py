"""Clients that ask a server all the time, and what they were answered."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.integration.serving_repo import Server


@dataclass(frozen=True)
class Answered:
    """One request: its status, 0 if there was none; when it was answered and how long that took, in seconds."""

    status: int
    at: float
    seconds: float
    body: Any
    headers: dict[str, str]


class Asking:
    """A client on a connection of its own, which it keeps."""

    def __init__(self, server: Server, body: Any, headers: Mapping[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self._body = json.dumps(body)
        self._headers = {"content-type": "application/json", **(headers or {})}

    def once(self) -> Answered:
        began = time.monotonic()
        try:
            self._connection.request("POST", "/get-online-features", self._body, self._headers)
            response = self._connection.getresponse()
            status, body, headers = response.status, json.loads(response.read()), dict(response.headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            status, body, headers = 0, repr(error), {}
        ended = time.monotonic()
        return Answered(status, ended, ended - began, body, headers)


@contextmanager
def asking(
    server: Server, threads: int, body: Any, headers: Mapping[str, str] | None = None
) -> Iterator[list[Answered]]:
    """So many clients that ask all the time; all their answers, once the context has ended."""
    answers: list[Answered] = []
    stop = threading.Event()

    def ask() -> list[Answered]:
        client, own = Asking(server, body, headers), []
        while not stop.wait(0.01):
            own.append(client.once())
        return own

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(ask) for _ in range(threads)]
        try:
            yield answers
        finally:
            stop.set()
        for future in running:
            answers += future.result()


def told(answers: list[Answered]) -> str:
    """The requests by status, for people."""
    failed = [answer.body for answer in answers if answer.status == 0][:3]
    return f"{len(answers)} requests: {dict(Counter(answer.status for answer in answers))} {failed or ''}"


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]
