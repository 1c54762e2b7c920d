"""Who may ask for what: the seam that a server calls for each request, the key before it reads any body, the rest
before it looks anything up.

    key_id = access.identify(bearer(authorization))
    caller = access.reach(key_id, project, service)
    withhold(caller, personal features of what is asked)
    access.charge(key_id, entities)

Every refusal is an `AccessRefused` with words for people. They name keys, services and features, never a value, an
entity key or the key's secret.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class AccessRefused(Exception):
    """A request that is not answered. `caller` is the name of the key, "" where none was recognised."""

    def __init__(self, text: str, caller: str = "") -> None:
        super().__init__(text)
        self.caller = caller


class Unauthorized(AccessRefused):
    """No key, or none that is known: HTTP 401, gRPC UNAUTHENTICATED."""


class Forbidden(AccessRefused):
    """The key is known and does not reach so far: HTTP 403, gRPC PERMISSION_DENIED."""


class TooMany(AccessRefused):
    """The key's limit is reached: HTTP 429 with Retry-After, gRPC RESOURCE_EXHAUSTED.

    `retry_after` is in seconds, above 0; as a header it is rounded up.
    """

    def __init__(self, text: str, caller: str, retry_after: float) -> None:
        super().__init__(text, caller)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `personal` says whether features tagged as personal data are answered, `replay` whether dead letters
    may be sent again."""

    name: str
    personal: bool
    replay: bool = False


class Access(Protocol):
    """Decides on each request, in microseconds: nothing here waits for a store. May be shared by threads."""

    def identify(self, key: str | None) -> str:
        """The id of a known key. `key` is what came as bearer token, None if nothing came.

        Raises `Unauthorized`, and `StoreUnavailable` where the keys could never be read.
        """

    def name(self, key_id: str) -> str:
        """The name of a key that was identified before, "" if it has been revoked since."""

    def reach(self, key_id: str, project: str, service: str | None) -> Caller:
        """Who asks for a feature service, None for features named one by one.

        `key_id` is of a key that was identified before. Raises `Unauthorized` if it has been revoked since, and
        `Forbidden`.
        """

    def look(self, key_id: str, entities: int) -> None:
        """Raises `TooMany` where `charge` would, before any work is put into the request: nothing is counted."""

    def charge(self, key_id: str, entities: int) -> None:
        """Count a request for so many entities (rows) against the limits of its key. Raises `TooMany`, and has
        counted nothing then."""

    def close(self) -> None:
        """Ends what runs beside the requests."""


class OpenAccess(Access):
    """Everybody may ask for everything: for a server on loopback, and where another gate stands before it."""

    def __init__(self, replay: bool = False) -> None:
        self._caller = Caller("anonymous", personal=True, replay=replay)

    def identify(self, key: str | None) -> str:
        return ""

    def name(self, key_id: str) -> str:
        return self._caller.name

    def reach(self, key_id: str, project: str, service: str | None) -> Caller:
        return self._caller

    def look(self, key_id: str, entities: int) -> None:
        """There is no limit."""

    def charge(self, key_id: str, entities: int) -> None:
        """There is no limit."""

    def close(self) -> None:
        """Nothing runs beside the requests."""


def bearer(authorization: str | None) -> str | None:
    """The token of an `Authorization: Bearer ...` header (RFC 6750), None without the header.

    Raises `Unauthorized` for a header of another form.
    """
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("the Authorization header is not of the form 'Bearer mr_...'")
    return token


def withhold(caller: Caller, personal: Sequence[str]) -> None:
    """Raises `Forbidden` naming the features, as `view:feature`, if the caller may not see personal data.

    `personal` are those of the requested features that are tagged so (`stores.personal`).
    """
    if personal and not caller.personal:
        raise Forbidden(
            f"{', '.join(personal)} {'is' if len(personal) == 1 else 'are'} personal data, which key {caller.name!r} "
            "may not see: leave it out, or ask with a key that was made with --personal",
            caller.name,
        )
