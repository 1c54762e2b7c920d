"""TLS from files, and their reload on change.

granian reads the files in each worker process as it starts, and on SIGHUP to its main process it starts new workers
before it ends the old ones. So a reload is a SIGHUP (`granian.server.Server.signal_handler_reload`) once the new
files are whole: they are read here first, and a certificate that does not fit its key changes nothing. granian asks no
new process whether it serves: whoever reloads has to know that it will (`serving.server`). gRPC reads them
as a process starts, too (`serving.grpc_server`), and so has the new ones with the new processes.
"""

import hashlib
import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
CLOSE_SECONDS = 1.0


class TlsError(ValueError):
    """Files that cannot serve: the text names the file and says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the certificate with its chain, its key, and for mutual TLS the authorities whose clients are let
    in (None: any client)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return tuple(path for path in (self.cert, self.key, self.client_ca) if path is not None)

    def check(self) -> None:
        """Read all files as a server would. Raises `TlsError`."""
        for path in self.files:
            if not path.is_file():
                raise TlsError(f"{path} does not exist")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key)
        except (ssl.SSLError, OSError) as error:
            raise TlsError(f"{self.cert} and {self.key} are no pair of certificate and key: {error}") from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (ssl.SSLError, OSError) as error:
                raise TlsError(f"{self.client_ca} holds no certificates: {error}") from error

    def granian(self) -> dict[str, Any]:
        """As keyword arguments of `granian.Granian`."""
        return {
            "ssl_cert": self.cert,
            "ssl_key": self.key,
            "ssl_ca": self.client_ca,
            "ssl_client_verify": self.client_ca is not None,
        }

    def digest(self) -> bytes:
        """Changes with the content of any file; also where a file is swapped behind a symbolic link, as Kubernetes
        does with secrets."""
        return b"".join(hashlib.sha256(path.read_bytes()).digest() for path in self.files)


class Postponed(Exception):
    """The new files cannot be served now, for a reason that is not theirs: the text says which."""


class TlsWatch:
    """Calls `reload` after the files have changed and are whole; again at the next look where it raises `Postponed`."""

    def __init__(self, files: TlsFiles, reload: Callable[[], None], every: float = CHECK_SECONDS) -> None:
        """Raises `TlsError` and `OSError` if the files cannot be read now."""
        files.check()
        self._files = files
        self._reload = reload
        self._every = every
        self._loaded = files.digest()
        self._refused = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tls", daemon=True)

    def start(self) -> None:
        """Look every second, on a thread of its own, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, or leaves it to the end of the process where a reload takes long."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def look(self) -> bool:
        """Look once; True if there was something new and it was loaded. What cannot serve is said once."""
        try:
            found = self._files.digest()
            if found == self._loaded:
                return False
            self._files.check()
            if self._files.digest() != found:
                return False  # still being written
            self._reload()
        except (TlsError, OSError) as error:
            if str(error) != self._refused:
                logger.error("the old certificate stays: %s", error, extra={"event": "tls_refused"})
            self._refused = str(error)
            return False
        except Postponed as error:
            if str(error) != self._refused:
                logger.error("the old certificate stays for now: %s", error, extra={"event": "tls_postponed"})
            self._refused = str(error)
            return False
        self._loaded, self._refused = found, ""
        logger.info("a new certificate is loaded", extra={"event": "tls_loaded", "file": self._files.cert})
        return True

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            self.look()
