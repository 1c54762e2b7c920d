"""The registry where `feast apply` left it, which is read here and never written."""

from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import sleep

from feast import FeatureStore, RepoConfig
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.registry.registry import get_registry_store_class_from_scheme, get_registry_store_class_from_type
from feast.infra.registry.registry_store import RegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from google.protobuf.message import DecodeError

from serving.frozen import Frozen
from serving.snapshot import Snapshot
from stores.errors import NothingApplied, RegistryUnreadable
from stores.feast_functions import FunctionUnloadable

SETTLE_SECONDS = 0.1
"""A file is read again after this time, and what it has is taken if it was the same twice."""

CHECK_SECONDS = 20.0
"""A registry that has not been read by then is taken for one that does not answer."""

READS = 10
"""So often it is read before it counts as unreadable."""

SERVERS = frozenset({"sql", "snowflake.registry", "remote"})
"""Feast's types of registries that are asked, object by object, by a connection; every other is one file or object."""


class Applied:
    """Reads the registry that a configuration names, and takes snapshots of it. For one thread at a time.

    A connection to a database is made by the first look and kept.
    """

    def __init__(self, config: RepoConfig) -> None:
        self._config = config
        self._opened: RegistryStore | BaseRegistry | None = None
        self._frozen: Frozen | None = None
        self._fingerprint = b""
        self._taken: Snapshot | None = None

    def take(self) -> Snapshot:
        """A snapshot of the registry as it is now: that of before if it has not changed. Raises `RegistryUnreadable`,
        as `read` does, and `FunctionUnloadable`."""
        frozen = self.read()
        if self._taken is None or self._taken.registry is not frozen:
            self._taken = Snapshot(self._config, frozen)
        return self._taken

    def read(self) -> Frozen:
        """The registry as it is now, of which nothing is loaded yet: that of before if it has not changed.

        Raises `RegistryUnreadable` where it is missing, empty, cut off, of other projects or not at rest, and where it
        cannot be reached.
        """
        try:
            message = self._settled()
        except RegistryUnreadable:
            raise
        except Exception as error:  # a registry may be in any store, which raises what it likes
            raise RegistryUnreadable(
                f"{self.place} cannot be read: {type(error).__name__}: {self._said(error)}; see whether it is up and "
                "reached"
            ) from error
        if self._frozen is None or not self._is_known(message):
            versions = self._opened if isinstance(self._opened, BaseRegistry) else None
            self._frozen, self._fingerprint = Frozen(self._config, message, versions), _text(message)
        return self._frozen

    def _settled(self) -> RegistryProto:
        """Feast empties a file before it fills it: what cannot be read now may be soon, and what can may be a part."""
        before: RegistryProto | None = None
        for again in range(READS):
            if again:
                sleep(SETTLE_SECONDS)
            try:
                message = self._read()
            except RegistryUnreadable as error:
                before, unreadable = None, error
                continue
            if message == before or isinstance(self._opened, BaseRegistry) or self._is_known(message):
                return message
            before, unreadable = message, RegistryUnreadable(f"{self.place} was another each time that it was read")
        raise unreadable

    def _is_known(self, message: RegistryProto) -> bool:
        return self._frozen is not None and _text(message) == self._fingerprint

    def _said(self, error: Exception) -> str:
        """Its first line: of a database the statement and its values come below. A password that holds an @ is taken
        for a part of the host, which is named."""
        words = str(error).partition("\n")[0]
        registry = self._config.registry
        for url in (str(registry.path), str(getattr(registry, "read_path", None) or "")):
            password = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
            for part in sorted(filter(None, password.split("@")), key=len, reverse=True):
                words = words.replace(part, "...")
        return words

    def _read(self) -> RegistryProto:
        if self._opened is None:
            self._opened = _opened(self._config)
        opened = self._opened
        try:
            message: RegistryProto = opened.proto() if isinstance(opened, BaseRegistry) else opened.get_registry_proto()
        except FileNotFoundError as error:
            raise NothingApplied(f"there is no registry at {self.place}: run millrace apply ({error})") from error
        except DecodeError as error:
            raise RegistryUnreadable(
                f"{self.place} is cut off, or no registry of Feast's: put its backup back, or move it away and run "
                f"millrace apply ({error})"
            ) from error
        # The project comes last in a file, behind all that it declares but the old versions of views.
        if self._config.project not in {project.spec.name for project in message.projects}:
            raise NothingApplied(
                f"{self.place} has no project {self._config.project!r}: it is empty, cut off, being written, or "
                "another's; if it stays so, run millrace apply"
            )
        return message

    @property
    def place(self) -> str:
        """Where the registry is; of a database, whose address may hold a password, what it is."""
        kind = self._config.registry.registry_type
        return f"the {kind} registry" if kind in SERVERS else str(self._config.registry.path)


def check(config: RepoConfig) -> None:
    """Raises `RegistryUnreadable` where `Applied.take` would fail, before processes are started that need the registry.

    A process of its own takes it: a connection to a database would not survive a fork, and what hangs can be ended.
    """
    forked = get_context("fork")
    told, tells = forked.Pipe(duplex=False)
    process = forked.Process(target=_try, args=(config, tells), name="registry", daemon=True)
    process.start()
    tells.close()
    try:
        trouble = told.recv() if told.poll(CHECK_SECONDS) else f"the registry did not answer within {CHECK_SECONDS:g} s"
    except EOFError:
        trouble = "the process that read the registry was killed"
    process.kill()
    process.join()
    told.close()
    if trouble:
        raise RegistryUnreadable(trouble)


def _try(config: RepoConfig, tells: Connection) -> None:
    """Tell why the registry cannot be taken, "" if it can."""
    try:
        Applied(config).take()
    except (RegistryUnreadable, FunctionUnloadable) as error:
        tells.send(str(error))
    except Exception as error:  # noqa: BLE001  # what Feast makes objects of may be none to it
        tells.send(f"the registry cannot be taken: {type(error).__name__}: {error}")
    else:
        tells.send("")


def _opened(config: RepoConfig) -> RegistryStore | BaseRegistry:
    """A server of registries as Feast opens it; else the file or object itself, since Feast's registry over it makes
    one where there is none."""
    registry = config.registry
    if registry.registry_type in SERVERS:
        registry.cache_ttl_seconds, registry.cache_mode = 0, "sync"  # Feast's words for: nothing is read unasked
        return FeatureStore(config=config).registry
    if registry.registry_store_type is None:
        store = get_registry_store_class_from_scheme(registry.path)
    else:
        store = get_registry_store_class_from_type(str(registry.registry_store_type))
    opened: RegistryStore = store(registry, config.repo_path or Path.cwd())
    return opened


def _text(message: RegistryProto) -> bytes:
    text: bytes = message.SerializeToString(deterministic=True)
    return text
