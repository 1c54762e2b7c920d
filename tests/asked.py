"""One request without its connection: `serving.incoming.HttpRequest`, and what becomes of it."""

import asyncio
from typing import Any

from serving.http import Application
from serving.incoming import HttpRequest
from serving.refusals import Answer

NO_SITE: Any = None
"""Of an application that is asked for no page for people."""


class Asked:
    """Stands in the place of a connection. The body comes once the server waits for it and it is let come, or never if
    it is None; `answer` is what it was answered, which the client has `taken` at once unless it is told to wait."""

    def __init__(
        self,
        method: str,
        path: str,
        body: bytes | None = b"",
        comes: asyncio.Event | None = None,
        taken: asyncio.Event | None = None,
        **headers: str,
    ) -> None:
        told = {b"content-length": b"%d" % len(b"x" if body is None else body)}
        told |= {name.encode(): value.encode() for name, value in headers.items()}
        self.request = HttpRequest(self, method, path.encode(), told)
        self.read = False
        """Whether the body was waited for."""
        self.answer: Answer | None = None
        self._body, self._comes, self._taken = body, comes, taken
        self._sending: asyncio.Task[None] | None = None

    @property
    def status(self) -> int:
        """0 until it is answered."""
        return 0 if self.answer is None else self.answer.status

    async def of(self, application: Application) -> "Asked":
        """Itself, answered by an application."""
        await application(self.request)
        return self

    def wanted(self, expected: bool) -> None:
        self.read = True
        if self._body is not None:
            self._sending = asyncio.create_task(self._send_body(self._body))

    def send(self, request: HttpRequest, answer: Answer) -> None:
        assert self.answer is None
        self.answer = answer

    async def taken(self) -> None:
        if self._taken is not None:
            await self._taken.wait()

    async def _send_body(self, body: bytes) -> None:
        if self._comes is not None:
            await self._comes.wait()
        self.request.add(body)
        self.request.complete()
