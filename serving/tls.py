"""TLS from files, and their reload on change.

Each process reads the files as it starts. So a reload is new processes in the place of the old ones (`serving.server`)
once the new files are whole: they are read here first, and a certificate that does not fit its key changes nothing.
gRPC reads them as a process starts, too (`serving.grpc_server`), and so has the new ones with the new processes.
"""

import hashlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


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

    def context(self) -> ssl.SSLContext:
        """What connections are opened with: HTTP/1.1 by TLS 1.3. Raises `TlsError`."""
        for path in self.files:
            if not path.is_file():
                raise TlsError(f"{path} does not exist")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.cert, self.key)
        except (ssl.SSLError, OSError) as error:
            raise TlsError(f"{self.cert} and {self.key} are no pair of certificate and key: {error}") from error
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self.client_ca)
            except (ssl.SSLError, OSError) as error:
                raise TlsError(f"{self.client_ca} holds no certificates: {error}") from error
        return context

    def digest(self) -> bytes:
        """Changes with the content of any file; also where a file is swapped behind a symbolic link, as Kubernetes
        does with secrets."""
        return b"".join(hashlib.sha256(path.read_bytes()).digest() for path in self.files)


class Postponed(Exception):
    """The new files cannot be served now, for a reason that is not theirs: the text says which."""


class TlsWatch:
    """Calls `reload` after the files have changed and are whole; again at the next look where it raises `Postponed`."""

    def __init__(self, files: TlsFiles, reload: Callable[[], None]) -> None:
        """Raises `TlsError` and `OSError` if the files cannot be read now."""
        files.context()
        self._files = files
        self._reload = reload
        self._loaded = files.digest()
        self._refused = ""

    def look(self) -> bool:
        """Look once; True if there was something new and it was loaded. What cannot serve is said once."""
        try:
            found = self._files.digest()
            if found == self._loaded:
                return False
            self._files.context()
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
