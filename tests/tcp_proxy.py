"""A TCP proxy before a store: it counts what is asked, and can be slow, silent or away."""

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from millrace.stack.ports import choose_ports


@dataclass
class TcpProxy:
    """Forwards connections to the server on loopback at `behind`, from a thread of its own.

    `received` is every byte that clients sent, `connections` how many they made, `replied` how many bytes the replies
    had. Each part of a reply is held back for `delay` seconds, beside the others; none is passed on while `silent`, nor
    on a connection over which `muted_by` was sent.
    """

    behind: int
    delay: float = 0.0
    silent: bool = False
    muted_by: bytes | None = None
    received: bytearray = field(default_factory=bytearray)
    connections: int = 0
    replied: int = 0
    port: int = field(default_factory=lambda: choose_ports(("proxy",), {})["proxy"])
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None

    def start(self) -> "TcpProxy":
        """Returns once it accepts connections."""
        listens = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listens,), daemon=True)
        self._thread.start()
        if not listens.wait(10):
            raise RuntimeError(f"the proxy does not listen on port {self.port}")
        return self

    def stop(self) -> None:
        """Ends it with its connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join(10)

    def _run(self, listens: threading.Event) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._join, "127.0.0.1", self.port))
        listens.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.behind)
        except OSError:
            writer.close()
            return
        sent = bytearray()
        replies = asyncio.create_task(self._reply(from_server, writer, sent))
        try:
            with suppress(OSError):
                while data := await reader.read(65_536):
                    self.received += data
                    sent += data
                    to_server.write(data)
        finally:
            replies.cancel()
            for end in (to_server, writer):
                end.close()

    async def _reply(self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytearray) -> None:
        with suppress(OSError):
            while data := await from_server.read(65_536):
                self.replied += len(data)
                while self.silent or (self.muted_by is not None and self.muted_by in sent):
                    await asyncio.sleep(0.01)
                self._loop.call_later(self.delay, writer.write, data)
        writer.close()
