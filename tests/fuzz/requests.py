"""Requests by a seed: cases that schemathesis makes of the OpenAPI document, and bodies that are no requests at all."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

POSTS = ("/get-online-features", "/retrieve-online-documents", "/search")
GETS = ("/health", "/ready", "/metrics", "/openapi.json", "/docs", "/console", "/console/lookup", "/console/style.css")
NESTED: dict[str, Any] = {"type": "eq", "key": "size", "value": 1}
for _ in range(160):
    NESTED = {"type": "and", "filters": [NESTED]}
VALID: tuple[dict[str, Any], ...] = (
    {"features": ["weather:temp", "airports:name"], "entities": {"origin": ["EWR", "JFK"]}},
    {"feature_service": "felt", "entities": {"origin": ["EWR"], "offset": [0.5]}, "full_feature_names": True},
    {"features": ["types:bytes", "types:map"], "entities": {"item": [1, 2, 3]}},
    {"features": ["moments:count"], "entities": {"seen": ["1970-01-02T00:00:00Z"], "item": [1]}},
    {"features": ["weather:temp"], "query_string": "a storm", "top_k": 3},
    {"features": ["weather:temp"], "query": [0.5, 1.0], "filters": {"type": "eq", "key": "sky", "value": "rain"}},
    {"features": ["fares@v0:fare", "fares:tax"], "entities": {"origin": ["EWR"]}, "full_feature_names": True},
    {"features": ["texts:text", "weather:temp"], "entities": {"origin": ["EWR", "X"]}},
    {"features": ["texts:text"], "query_string": "a storm", "top_k": 3},
    {
        "features": ["texts:text", "texts:size"],
        "query": [0.5] * 256,
        "filters": {"type": "or", "filters": [{"type": "gt", "key": "size", "value": 1}]},
    },
)
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**63,
    -(2**70),
    1e308,
    0.1,
    "",
    "\x00",
    "é" * 2_000,
    "weather:temp",
    "weather@v9:temp",
    "weather@v" + "9" * 5_000 + ":temp",
    "::",
    "a:b:c",
    "../../etc/passwd",
    "${MILLRACE_REDIS}",
    "<script>",
    [],
    [[]],
    [None],
    {},
    {"": []},
    {"__dummy_id": [""]},
    ["weather:temp"] * 1_001,
    [1] * 10_001,
    ["EWR", 1, None, {}],
    {"type": "gt", "key": "size", "value": None},
    {"type": "in", "key": "size", "value": [1] * 70_000},
    NESTED,
    "9999999-99-99",
    "1e400",
)
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"content-type": "text/plain"},
    {"content-type": "application/json; charset=utf-7"},
    {"authorization": "Bearer"},
    {"authorization": "Basic x"},
    {"authorization": "Bearer mr_" + "0" * 60},
    {"accept": "\xff" * 50},
    {"accept": "application/openmetrics-text; version=abc"},
    {"accept": "text/plain; version=x; escaping=allow-utf-8"},
    {"cookie": "millrace_console=;;;=" + "x" * 500},
    {"content-encoding": "gzip"},
    {"host": "elsewhere.example"},
    {"origin": "http://["},
    {"expect": "nothing"},
)


@dataclass(frozen=True)
class Sent:
    """One request."""

    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


def by_schema(document: dict[str, Any], number: int, send: Callable[[Sent], None], examples: int) -> None:
    """Sends so many cases of each operation of the document, valid ones and invalid ones."""
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    schema = schemathesis.openapi.from_dict(document)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if operation.method.upper() != "POST":
            continue
        for mode in modes:

            @seed(number)
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def one(case: Any) -> None:
                made = case.as_transport_kwargs(base_url="http://here")
                body = json.dumps(made["json"], allow_nan=True).encode() if "json" in made else made.get("data")
                headers = {name: str(value) for name, value in (made.get("headers") or {}).items()}
                send(Sent(case.method.upper(), case.path, body, _sendable(headers)))

            one()


def malformed(chance: random.Random, count: int) -> Iterator[Sent]:
    """So many requests that begin as valid ones."""
    for _ in range(count):
        headers = dict(chance.choice(HEADERS)) if chance.random() < 0.2 else {}
        if chance.random() < 0.15:
            query = "?" + "".join(chance.choices("of=view:servic&key.%00é<>;+", k=chance.randrange(40)))
            method = chance.choice(("GET", "GET", "GET", "POST", "PUT", "HEAD", "DELETE", "X"))
            path = chance.choice((*GETS, *POSTS, "/", "/console/replay", "/console/../x", "//", "/%2e%2e"))
            yield Sent(method, path + query.encode("ascii", "ignore").decode(), _form(chance), headers)
        else:
            yield Sent("POST", chance.choice(POSTS), _body(chance), headers)


def _body(chance: random.Random) -> bytes:
    body = _changed(chance, json.loads(json.dumps(chance.choice(VALID))))
    data = json.dumps(body).encode()
    kind = chance.random()
    if kind < 0.5:
        return data
    if kind < 0.6:
        return data[: chance.randrange(len(data) + 1)]
    if kind < 0.8:
        place = chance.randrange(len(data))
        return data[:place] + chance.randbytes(chance.randrange(1, 9)) + data[place + chance.randrange(4) :]
    if kind < 0.9:
        depth = chance.randrange(1, 3_000)
        return b'{"entities":' + b"[" * depth + b"]" * chance.choice((depth, 0)) + b"}"
    return chance.choice((b"", b"null", b"[]", b"\xff\xfe", b'{"a":1,"a":2}', b'{"entities":NaN}', b'"\\ud800"'))


def _changed(chance: random.Random, body: dict[str, Any]) -> Any:
    for _ in range(chance.choice((0, 1, 1, 2))):
        name = chance.choice([*body, "unknown", "top_k", "filters", "query", "entities", "feature_service"])
        if isinstance(body.get(name), dict) and body[name] and chance.random() < 0.7:
            body[name][chance.choice([*body[name], "x"])] = chance.choice((_odd(chance), [_odd(chance)]))
        elif isinstance(body.get(name), list) and body[name] and chance.random() < 0.7:
            body[name][chance.randrange(len(body[name]))] = _odd(chance)
        else:
            body[name] = _odd(chance)
    return body


def _odd(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(ODD))  # what is made of it is changed further


def _form(chance: random.Random) -> bytes | None:
    return chance.randbytes(chance.randrange(60)) if chance.random() < 0.3 else None


def _sendable(headers: dict[str, str]) -> dict[str, str]:
    """Headers that a client can send at all."""
    return {n: v for n, v in headers.items() if n.isascii() and v.isprintable() and v.isascii() and "\n" not in n}
