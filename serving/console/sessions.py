"""Sessions of the console: who has shown an API key, without keeping the key.

The cookie says which key was shown (its id, which is no secret), until when the session lasts, and a random number,
signed together by HMAC-SHA256. The key itself is looked at once, when it is shown, and stands neither in the cookie nor
in the server's memory afterwards: a stolen cookie opens the console until the session ends, and nothing else; it is no
bearer token. The key is looked up by its id on each request, so that revoking it ends its sessions within a second.

The signing secret is random, made when the server starts and shared by its processes. It is not derived from what is
stored in Redis: whoever reads the hashes of the keys there could otherwise sign sessions. So sessions end when the
server ends, and each replica has its own: behind a load balancer the console needs sticky addresses.

What changes something is asked by POST with a token, an HMAC of the session's cookie, which another site cannot read.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

COOKIE = "millrace_console"
PATH = "/console"
SECONDS = 3_600
"""How long a session lasts, however much it is used."""

_COOKIE = re.compile(r"([0-9a-f]{0,16})\.(\d{1,12})\.([A-Za-z0-9_-]{22})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Session:
    """A session that began here. `key_id` is "" where no keys are asked for; `token` proves that a form is ours."""

    key_id: str
    cookie: str
    token: str


class Sessions:
    """Begins sessions and knows them again. Made before the processes are forked, so that all know the same."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._secret = secrets.token_bytes(32)
        self._clock = clock

    def begin(self, key_id: str) -> Session:
        """A new session of whoever has shown that key."""
        text = f"{key_id}.{int(self._clock()) + SECONDS}.{secrets.token_urlsafe(16)}"
        return self._session(key_id, f"{text}.{self._sign('session', text)}")

    def known(self, cookies: str | None) -> Session | None:
        """The session that a `Cookie` header names; None if there is none, or it is over, or not of this server."""
        cookie = _value(cookies or "")
        match = _COOKIE.fullmatch(cookie)
        if match is None:
            return None
        signed = self._sign("session", cookie.rpartition(".")[0])
        if not hmac.compare_digest(signed, match[4]) or int(match[2]) <= self._clock():
            return None
        return self._session(match[1], cookie)

    def _session(self, key_id: str, cookie: str) -> Session:
        return Session(key_id, cookie, self._sign("form", cookie))

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def of_form(session: Session, token: str) -> bool:
    """Whether a form was made for this session."""
    return hmac.compare_digest(session.token.encode(), token.encode("utf-8", "replace"))


def set_cookie(cookie: str, secure: bool, seconds: int = SECONDS) -> tuple[str, str]:
    """The header that gives a browser its cookie, out of reach of scripts, other sites and other pages; with 0 seconds
    it takes it back."""
    flags = f"Path={PATH}; Max-Age={seconds}; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
    return "set-cookie", f"{COOKIE}={cookie}; {flags}"


def _value(cookies: str) -> str:
    for pair in cookies.split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return ""
