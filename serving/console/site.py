"""The console's addresses: who may see which page, and what each page is made of.

A page is asked for by a session (`serving.console.sessions`); without keys everybody has one. What a key may not reach
by the API it does not see here either: a key for some feature services looks those up and nothing else, personal
features are withheld, each page counts against the key's limits, and replaying letters needs a key made with --replay.
Entity keys are sent by POST, so that they stand in no address, history or log. Every POST has to come from our own
pages: the browser's `Origin` must be this server, and the form must have the session's token. A server without keys on
loopback answers to loopback's names only (`serving.http`), so that no other site can reach it under a name of its own.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

import orjson

from serving.access import Access, AccessRefused, Caller, Forbidden, Unauthorized
from serving.aside import Aside
from serving.console.latest import Latest
from serving.console.look_up import Target, look_up, search, searched, target, vector_views
from serving.console.platform import LetterLine, Platform, PlatformState, PlatformUnavailable, ReplayRefused
from serving.console.render import STYLE, page
from serving.console.sessions import Session, Sessions, of_form, set_cookie
from serving.console.views import view_rows
from serving.features import OnlineFeatures
from serving.http import SEEN_CHARACTERS, Seen, Visit, charge_refused
from serving.plan import InvalidRequest, NotDeclared
from serving.reach import check_service, reach_of
from serving.refresh import Registry
from serving.refusals import RETRY, Answer, Headers, refusal, refused
from serving.search import Texts, VectorIndex

log = logging.getLogger("millrace")

POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
SAFE: Headers = [
    ("content-security-policy", POLICY),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
]
HTML: Headers = [("content-type", "text/html; charset=utf-8"), *SAFE]
FIELDS = 100
"""Fields of a form."""
FORM_BYTES = 64 << 10
LOGIN_BYTES = 4 << 10
"""Of the one form that is read of anybody."""
LOGIN = "/console/login"
TOP = 100
"""Entities that a search shows at most."""
NAV = (
    ("/console", "Views"),
    ("/console/lookup", "Look up"),
    ("/console/search", "Search"),
    ("/console/lag", "Lag"),
    ("/console/letters", "Letters"),
)
HEADINGS = {
    401: "Show your key",
    403: "Not for this key",
    404: "Not there",
    413: "That is too much",
    422: "That cannot be answered",
}


@dataclass(frozen=True, slots=True)
class Serving:
    """What model services are answered with. `index` and `texts` are None where no view has a vector; searches run
    `aside`."""

    project: str
    registry: Registry
    features: OnlineFeatures
    index: VectorIndex | None
    texts: Texts | None
    aside: Aside


@dataclass(frozen=True, slots=True)
class Entrance:
    """How the console is reached. `keyed`: only with a key; `secure`: by TLS."""

    keyed: bool
    secure: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One request on its way: its session, and its form or query."""

    visit: Visit
    session: Session
    form: Mapping[str, str]
    seen: Seen


Show = Callable[["Page"], Awaitable[Answer]]


class Console:
    """Answers every address under `/console`."""

    def __init__(
        self, serving: Serving, platform: Platform, access: Access, sessions: Sessions, entrance: Entrance
    ) -> None:
        self._serving = serving
        self._platform = platform
        self._access = access
        self._sessions = sessions
        self._entrance = entrance
        self._state: Latest[PlatformState] = Latest(platform.state, PlatformUnavailable)
        self._letters: Latest[Sequence[LetterLine]] = Latest(platform.letters, PlatformUnavailable)
        self._pages: Mapping[tuple[str, str], Show] = {
            ("GET", "/console"): self._views,
            ("GET", "/console/lookup"): self._lookup,
            ("POST", "/console/lookup"): self._lookup,
            ("GET", "/console/search"): self._search,
            ("POST", "/console/search"): self._search,
            ("GET", "/console/lag"): self._lag,
            ("GET", "/console/letters"): self._letters_page,
            ("POST", "/console/replay"): self._replay,
            ("POST", "/console/logout"): self._logout,
        }

    def body_bytes(self, path: str, cookies: str | None) -> int:
        """As `serving.http.Site.body_bytes`: nothing is read of who has no session, but the form that begins one."""
        if path == LOGIN:
            return LOGIN_BYTES
        return FORM_BYTES if self._sessions.known(cookies) is not None else 0

    async def answer(self, visit: Visit, seen: Seen) -> Answer:
        """The page, or one that says what is wrong."""
        try:
            return await self._routed(visit, seen)
        except Unauthorized as error:
            seen.audited = True
            return self._login_page(str(error), 401)
        except Exception as error:  # noqa: BLE001  # every error has a page
            if isinstance(error, AccessRefused):
                seen.caller, seen.audited = error.caller or seen.caller, True
            return self._trouble(refusal(error))

    async def _routed(self, visit: Visit, seen: Seen) -> Answer:
        if visit.path == "/console/style.css":
            return Answer(200, STYLE, [("content-type", "text/css"), *SAFE[:-1], ("cache-control", "max-age=300")])
        self._of_here(visit)
        form = _fields(visit.body.decode("utf-8", "replace") if visit.method == "POST" else visit.query)
        if visit.path == LOGIN and self._entrance.keyed:
            return self._log_in(form) if visit.method == "POST" else self._login_page("", 200)
        show = self._pages.get((visit.method, visit.path))
        if show is None:
            raise NotDeclared(f"there is no page {visit.path} to be asked by {visit.method}")
        session = self._sessions.known(visit.header("cookie"))
        if session is None and self._entrance.keyed:
            return _go(LOGIN)
        begun = session is None
        session = session or self._sessions.begin("")
        seen.caller = self._access.name(session.key_id)
        shown = await self._charged(show, Page(visit, session, form, seen))
        if begun:
            shown.headers.append(set_cookie(session.cookie, self._entrance.secure))
        return shown

    async def _charged(self, show: Show, asked: Page) -> Answer:
        """The page, which counts against the key's limits whatever comes of it."""
        try:
            if asked.visit.method == "POST" and not of_form(asked.session, asked.form.get("token", "")):
                raise Forbidden("the form is out of date: load the page again, and send it once more")
            return await show(asked)
        except (InvalidRequest, Forbidden):
            charge_refused(self._access, asked.session.key_id, asked.seen)
            raise

    def _of_here(self, visit: Visit) -> None:
        """Raises `Forbidden` for what another site sends."""
        host, origin = visit.header("host") or "", visit.header("origin")
        if visit.method == "POST" and origin is not None and _parts(origin).netloc != host:
            raise Forbidden("the form comes from another site")

    def _admit(self, asked: Page, service: str | None, entities: int) -> Caller:
        project = self._serving.registry.current.config.project
        asked.seen.service, asked.seen.entities = service and service[:SEEN_CHARACTERS], entities
        caller = self._access.reach(asked.session.key_id, project, service)
        self._access.charge(asked.session.key_id, entities)
        asked.seen.charged = True
        return caller

    def _log_in(self, form: Mapping[str, str]) -> Answer:
        session = self._sessions.begin(self._access.identify(form.get("key", "").strip()))
        return _go("/console", set_cookie(session.cookie, self._entrance.secure))

    async def _logout(self, asked: Page) -> Answer:
        return _go("/console", set_cookie("", self._entrance.secure, 0))

    async def _views(self, asked: Page) -> Answer:
        caller = self._admit(asked, None, 0)
        state, letters = await asyncio.gather(self._state.known(), self._letters.known())
        snapshot = self._serving.registry.current
        rows = view_rows(snapshot, state.value or PlatformState(), letters.value or ())
        return self._page("views", asked, caller, state=state, rows=rows)

    async def _lookup(self, asked: Page) -> Answer:
        snapshot, of = self._serving.registry.current, asked.form.get("of", "")
        kind, _, name = of.partition(":")
        is_service = kind == "service"
        if of and (kind not in ("view", "service") or not name):
            raise InvalidRequest("choose a view or a service")
        if of and not is_service:
            asked.seen.views = [name[:SEEN_CHARACTERS]]
        caller = self._admit(asked, name if is_service else None, 1) if of else self._visitor(asked)
        if is_service:
            check_service(self._access, asked.session.key_id, snapshot, name)
        wanted: Target | None = target(snapshot, caller, name, is_service) if of else None
        keys = {name.removeprefix("key."): value for name, value in asked.form.items() if name.startswith("key.")}
        found = None
        if wanted is not None:
            asked.seen.views = wanted.compiled.views
        if wanted is not None and asked.visit.method == "POST":
            found = await look_up(self._serving.features, wanted, keys, time.time())
        reach = reach_of(self._access, asked.session.key_id, snapshot)
        names = {"views": reach.views, "services": reach.services, "of": of}
        return self._page("lookup", asked, caller, target=wanted, form=keys, found=found, **names)

    async def _search(self, asked: Page) -> Answer:
        caller = self._admit(asked, None, 1)
        snapshot, index, texts = self._serving.registry.current, self._serving.index, self._serving.texts
        views = vector_views(snapshot) if index is not None and texts is not None else []
        form = asked.form
        name, text, top = form.get("view", ""), form.get("text", ""), form.get("top") or "5"
        names: list[str] = []
        rows: list[list[str]] = []
        if asked.visit.method == "POST" and index is not None and texts is not None:
            if not top.isdecimal() or len(top) > len(str(TOP)) or not 1 <= int(top) <= TOP:
                raise InvalidRequest(f"a search shows 1 to {TOP} entities")
            asked.seen.views = [name[:SEEN_CHARACTERS]]
            wanted = searched(snapshot, caller, name, text)
            vector = await texts.vector(index, wanted.view, text)
            names, rows = await self._serving.aside.run(search, index, wanted, vector, int(top), time.time())
        return self._page("search", asked, caller, views=views, view=name, text=text, top=top, names=names, rows=rows)

    async def _lag(self, asked: Page) -> Answer:
        caller = self._admit(asked, None, 0)
        return self._page("lag", asked, caller, state=await self._state.known())

    async def _letters_page(self, asked: Page) -> Answer:
        caller = self._admit(asked, None, 0)
        told = "The letter was sent again; whether it is accepted now shows here in a moment." if asked.form else ""
        letters = await self._letters.known()
        return self._page("letters", asked, caller, letters=letters, may_replay=caller.replay, told=told)

    async def _replay(self, asked: Page) -> Answer:
        caller = self._admit(asked, None, 0)
        if not caller.replay:
            raise Forbidden(f"key {caller.name!r} may not replay letters: use one made with --replay", caller.name)
        wanted = asked.form.get("letter", "")
        if not wanted.isdecimal() or len(wanted) > 18:
            raise InvalidRequest("name the letter by its number")
        number = int(wanted)
        try:
            sent = await asyncio.to_thread(self._platform.replay, number)
        except ReplayRefused as error:
            raise InvalidRequest(str(error)) from error
        except PlatformUnavailable as error:
            return self._trouble(refused(503, "platform_unavailable", str(error), RETRY))
        if not sent:
            raise NotDeclared(f"there is no letter {number}")
        log.info("letter %d replayed", number, extra={"event": "letter_replayed", "key": caller.name, "letter": number})
        self._letters.forget()
        return _go("/console/letters?replayed=1")

    def _visitor(self, asked: Page) -> Caller:
        """Who asks for a page that shows nothing yet, whatever services the key is for."""
        try:
            return self._admit(asked, None, 0)
        except Forbidden as error:
            charge_refused(self._access, asked.session.key_id, asked.seen)
            asked.seen.charged = True
            return Caller(error.caller, personal=False)

    def _page(self, template: str, asked: Page, caller: Caller, **values: Any) -> Answer:
        common = {
            **self._common(),
            "nav": NAV,
            "here": asked.visit.path,
            "caller_name": caller.name,
            "token": asked.session.token,
        }
        return Answer(200, page(template, **common, **values), list(HTML))

    def _common(self) -> dict[str, Any]:
        return {
            "project": self._serving.project,
            "keyed": self._entrance.keyed,
            "nav": NAV,
            "here": "",
            "caller_name": "",
        }

    def _login_page(self, trouble: str, status: int) -> Answer:
        return Answer(status, page("login", **{**self._common(), "nav": (), "trouble": trouble}), list(HTML))

    def _trouble(self, error: Answer) -> Answer:
        detail = orjson.loads(error.body)["detail"]
        heading = HEADINGS.get(error.status, "Not now")
        retry = [header for header in error.headers if header[0] == "retry-after"]
        return Answer(error.status, page("trouble", heading=heading, detail=detail, **self._common()), [*HTML, *retry])


def _parts(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        raise InvalidRequest("the Origin header is no address") from None


def _fields(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS))
    except ValueError:
        raise InvalidRequest(f"a form has at most {FIELDS} fields") from None


def _go(path: str, *headers: tuple[str, str]) -> Answer:
    return Answer(303, b"", [("location", quote(path, safe="/?=")), *SAFE, *headers])
