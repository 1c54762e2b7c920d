"""Access by API keys: `mr_<id>_<secret>`, sent as bearer token.

The keys are read from the store beside the requests, every `REFRESH_SECONDS`: a key that is made, or revoked, is so in
all processes within that time. If the store is away, what was known last holds. A key that cannot be read admits
nobody, and keeps none of the others back.
"""

import hashlib
import hmac
import logging
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.access import Access, Caller, Forbidden, TooMany, Unauthorized
from serving.limits import SETTLE_SECONDS, Limits
from stores.access_keys import AccessKey, Spent, StoredKeys
from stores.errors import StoreRefused, StoreUnavailable

logger = logging.getLogger(__name__)

PREFIX = "mr_"
REFRESH_SECONDS = 1.0
CLOSE_SECONDS = 1.0
"""For the last report: a store that does not answer keeps no server from ending."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(rf"{PREFIX}([0-9a-f]{{16}})_[A-Za-z0-9_-]{{43}}")


class KeyStore(Protocol):
    """Where the keys of a project are: `stores.access_keys.RedisKeys`."""

    def read(self) -> StoredKeys:
        """Every key."""

    def spend(self, spent: Sequence[Spent]) -> list[float]:
        """Take amounts from shared buckets, and the balance of each afterwards."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is made: `text` is shown once and stored nowhere."""

    stored: AccessKey
    text: str


def make_key(
    name: str,
    services: Sequence[str] = (),
    personal: bool = False,
    requests_per_second: float = 0.0,
    entities_per_second: float = 0.0,
    replay: bool = False,
) -> NewKey:
    """A new key with a secret of 256 random bits. Raises `ValueError` for a name that would not stand in a log, and for
    a limit that is not finite."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a key: use up to 64 letters, digits, '.', '_' and '-'")
    limits = (requests_per_second, entities_per_second)
    if not all(map(math.isfinite, limits)):
        raise ValueError("a limit is a finite number, and 0 is none")
    key_id = secrets.token_hex(8)
    text = f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
    stored = AccessKey(
        name, key_id, _digest(text).hex(), tuple(services), personal, *limits, made=time.time(), replay=replay
    )
    return NewKey(stored, text)


class KeyedAccess(Access):
    """Admits who has a key of the project. `start` it, or call `refresh` and `settle` yourself."""

    def __init__(self, store: KeyStore, project: str) -> None:
        self._store = store
        self._project = project
        self._limits = Limits(store.spend)
        self._keys: dict[str, tuple[AccessKey, bytes, Caller, frozenset[str]]] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access", daemon=True)
        self._said: dict[str, str] = {}
        self._unreadable: Mapping[str, str] = {}

    def start(self) -> None:
        """Keep keys and limits up to date, on a thread of its own, until `close`."""
        self._try(self.refresh)
        self._thread.start()

    def close(self) -> None:
        """Reports what was spent, as far as the store takes it within `CLOSE_SECONDS`, and ends the thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    @property
    def known(self) -> bool:
        """Whether the keys could be read since the process began."""
        return self._keys is not None

    def identify(self, key: str | None) -> str:
        keys = self._all()
        if key is None:
            raise Unauthorized("a key is needed: send the header 'Authorization: Bearer mr_...'")
        match = _KEY.fullmatch(key)
        found = keys.get(match[1]) if match else None
        # The id is no secret; the comparison of what is takes as long for each wrong key.
        if found is None or not hmac.compare_digest(_digest(key), found[1]):
            raise Unauthorized("the key is not known: it was revoked, is of another project, or was not copied whole")
        return found[0].id

    def name(self, key_id: str) -> str:
        found = self._all().get(key_id)
        return found[0].name if found is not None else ""

    def reach(self, key_id: str, project: str, service: str | None) -> Caller:
        found = self._all().get(key_id)
        if found is None:
            raise Unauthorized("the key was revoked: show another one")
        _, _, caller, services = found
        if project != self._project:
            raise Forbidden(f"key {caller.name!r} is of project {self._project!r}, not of {project!r}", caller.name)
        if services and service not in services:
            reach = ", ".join(sorted(services))
            asked = f"not for {service!r}" if service else "not for features named one by one"
            raise Forbidden(f"key {caller.name!r} is for feature service {reach}, {asked}", caller.name)
        return caller

    def look(self, key_id: str, entities: int) -> None:
        self._told(key_id, self._limits.wait(key_id, entities))

    def charge(self, key_id: str, entities: int) -> None:
        self._told(key_id, self._limits.take(key_id, entities))

    def _told(self, key_id: str, wait: float) -> None:
        if wait and (found := self._all().get(key_id)) is not None:
            raise TooMany(_limits_of(found[0]), found[0].name, wait)

    def refresh(self) -> None:
        """Read the keys anew; one that cannot be read is said once. Raises `StoreUnavailable` and `StoreRefused`."""
        stored = self._store.read()
        self._limits.keep(stored.keys)
        self._keys = {key.id: _known(key) for key in stored.keys}
        for name in stored.unreadable.keys() - self._unreadable.keys():
            logger.error("%s", stored.unreadable[name], extra={"event": "key_unreadable"})
        self._unreadable = stored.unreadable

    def settle(self) -> None:
        """Report what was spent of the limits. Raises `StoreUnavailable` and `StoreRefused`."""
        self._limits.settle()

    def _all(self) -> dict[str, tuple[AccessKey, bytes, Caller, frozenset[str]]]:
        if self._keys is None:
            raise StoreUnavailable("the store of the API keys", "they could not be read yet")
        return self._keys

    def _run(self) -> None:
        refreshed = time.monotonic()
        while not self._stopped.wait(SETTLE_SECONDS):
            self._try(self.settle)
            if time.monotonic() - refreshed >= REFRESH_SECONDS:
                refreshed = time.monotonic()
                self._try(self.refresh)
        self._try(self.settle)

    def _try(self, step: Callable[[], None]) -> None:
        """Runs a step; a failure is said once, until the step succeeds."""
        name, said = step.__name__, self._said.pop(step.__name__, None)
        try:
            step()
        except (StoreUnavailable, StoreRefused) as error:
            self._said[name] = str(error)
            if str(error) != said:
                logger.warning("keys and limits stay as they are: %s", error, extra={"event": "keys_stale"})
        except Exception:
            logger.exception("keys and limits stay as they are", extra={"event": "keys_stale"})
        else:
            if said is not None:
                logger.info("keys and limits are up to date again", extra={"event": "keys_fresh"})


def _known(key: AccessKey) -> tuple[AccessKey, bytes, Caller, frozenset[str]]:
    caller = Caller(key.name, key.personal, key.replay)
    return key, bytes.fromhex(key.sha256), caller, frozenset(key.services)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _limits_of(key: AccessKey) -> str:
    limits = [
        f"{limit:g} {what} a second"
        for limit, what in ((key.requests_per_second, "requests"), (key.entities_per_second, "entities"))
        if limit
    ]
    return f"key {key.name!r} is limited to {' and '.join(limits)}: wait, or ask for a higher limit"
