"""The server's OpenAPI document, with examples of what it really serves, and the page at `/docs` made of it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from typing import Any

import orjson
from feast.feature_view import DUMMY_ENTITY_ID

from serving.access import Access
from serving.plan import InvalidRequest
from serving.reach import Reach, reach_of
from serving.refresh import Registry
from serving.refusals import JSON, Answer
from serving.snapshot import Asked, Snapshot
from stores.entity_keys import BYTES, STRING
from stores.feast_protos import vector_field

Schema = dict[str, Any]

STRINGS: Schema = {"type": "array", "items": {"type": "string"}}
NUMBERS: Schema = {"type": "array", "items": {"type": "number"}}

FEATURES_REQUEST: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["entities"],
    "properties": {
        "features": {**STRINGS, "description": "Each as view:feature."},
        "feature_service": {"type": "string", "description": "Instead of features."},
        "entities": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": "array", "minItems": 1},
            "description": "By join key, or column of an on-demand view's request data: one value an entity.",
        },
        "full_feature_names": {"type": "boolean", "description": "Name features view__feature in the answer."},
        "include_feature_view_version_metadata": {"type": "boolean"},
    },
}
SEARCH_REQUEST: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["features"],
    "properties": {
        "features": {**STRINGS, "minItems": 1, "description": "Of one view with a vector."},
        "query": {**NUMBERS, "description": "The vector to search by."},
        "query_string": {"type": "string", "description": "Or the text, embedded by the view's own model."},
        "top_k": {"type": "integer", "minimum": 1, "default": 10},
        "filters": {"type": "object", "description": "Feast's ComparisonFilter or CompoundFilter."},
        "api_version": {"type": "integer", "description": "2: rows in the order of entity keys, as Feast's SDK needs."},
        "distance_metric": {"type": "string", "description": "Ignored: the view declares its metric."},
        "feature_service": {"type": "string", "description": "Not for a search."},
        "full_feature_names": {"type": "boolean", "description": "Not for a search."},
        "include_feature_view_version_metadata": {"type": "boolean"},
    },
}
COLUMN: Schema = {
    "type": "object",
    "required": ["values", "statuses", "event_timestamps"],
    "properties": {
        "values": {"type": "array", "items": {}},
        "statuses": {
            "type": "array",
            "items": {"enum": ["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]},
        },
        "event_timestamps": {"type": "array", "items": {"type": "string", "format": "date-time"}},
    },
}
ANSWER: Schema = {
    "type": "object",
    "required": ["results", "metadata"],
    "properties": {
        "results": {"type": "array", "items": COLUMN, "description": "One a name, in the order of feature_names."},
        "metadata": {
            "type": "object",
            "required": ["feature_names"],
            "properties": {"feature_names": STRINGS, "feature_view_metadata": {"type": "array", "items": {}}},
        },
    },
}
ERROR: Schema = {
    "type": "object",
    "required": ["error", "detail"],
    "properties": {"error": {"type": "string"}, "detail": {"type": "string"}},
}
REFUSALS = {
    "401": "No key, or none that is known.",
    "403": "The key does not reach so far.",
    "404": "A feature, view or service that is not declared; the text names it.",
    "413": "More than the server's limits allow.",
    "422": "A request that cannot be answered; the text says why.",
    "429": "The key's limit is reached; Retry-After says for how long.",
    "503": "The store is away, or the server is full; Retry-After says when to come again.",
}


def document(snapshot: Snapshot, reach: Reach) -> dict[str, Any]:
    """OpenAPI 3.1, its examples from what is declared now and within reach."""
    features = _posted("Online features", FEATURES_REQUEST, _features_example(snapshot, reach))
    search = _posted("The nearest entities of a vector view", SEARCH_REQUEST, _search_example(snapshot, reach))
    return {
        "openapi": "3.1.0",
        "info": {"title": f"millrace: {snapshot.config.project}", "version": "1"},
        "paths": {
            "/get-online-features": {"post": features},
            "/retrieve-online-documents": {"post": search},
            "/search": {"post": search},
            "/health": {"get": _got("The process lives")},
            "/ready": {"get": _got("Which stores answer", {"503": "No request is answered; the text says why."})},
            "/metrics": {"get": _got("Metrics for Prometheus")},
        },
        "components": {
            "schemas": {"Answer": ANSWER, "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _posted(summary: str, schema: Schema, example: Mapping[str, Any]) -> dict[str, Any]:
    errors = {
        status: {"description": text, "content": _content({"$ref": "#/components/schemas/Error"})}
        for status, text in REFUSALS.items()
    }
    answer = {"description": "The answer.", "content": _content({"$ref": "#/components/schemas/Answer"})}
    body = {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
    return {
        "summary": summary,
        "security": [{}, {"key": []}],
        "requestBody": body,
        "responses": {"200": answer, **errors},
    }


def _got(summary: str, errors: Mapping[str, str] | None = None) -> dict[str, Any]:
    responses = {"200": summary, **(errors or {})}
    return {"summary": summary, "responses": {status: {"description": text} for status, text in responses.items()}}


def _content(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _features_example(snapshot: Snapshot, reach: Reach) -> dict[str, Any]:
    """Features of a view; of a service for a key that is for services."""
    for name, view in _views(snapshot, reach):
        shown = _shown(snapshot, name, reach)
        if shown and hasattr(view, "entity_columns"):
            keys = {
                key.name: key.dtype.to_value_type().value for key in view.entity_columns if key.name != DUMMY_ENTITY_ID
            }
            return {"features": [f"{name}:{feature}" for feature in shown[:2]], "entities": _samples(keys)}
    for name in () if reach.views else reach.services:
        with suppress(InvalidRequest):  # it was applied with what is no longer there
            found = snapshot.plan(Asked((), name, False))
            if reach.personal or not found.personal:
                columns = {**found.plan.keys, **dict.fromkeys(found.plan.request_data, 0)}
                return {"feature_service": name, "entities": _samples(columns)}
    return {"features": ["view:feature"], "entities": {"join_key": [1]}}


def _views(snapshot: Snapshot, reach: Reach) -> list[tuple[str, Any]]:
    """The views within reach, as the registry has them."""
    return [(name, view) for name, view in snapshot.views.items() if name in reach.views]


def _shown(snapshot: Snapshot, name: str, reach: Reach) -> list[str]:
    """The features of a view that the key may ask for."""
    return [feature for feature in snapshot.features(name) if feature not in _withheld(snapshot, name, reach)]


def _withheld(snapshot: Snapshot, name: str, reach: Reach) -> frozenset[str]:
    """The fields of a view that the key may not see."""
    return frozenset() if reach.personal else snapshot.personal.get(name, frozenset())


def _samples(keys: Mapping[str, int]) -> dict[str, list[Any]]:
    """A value for each of the columns of those `ValueType`s."""
    return {name: ["a" if kind in (BYTES, STRING) else 1] for name, kind in keys.items()} or {"any": [1]}


def _search_example(snapshot: Snapshot, reach: Reach) -> dict[str, Any]:
    names = ["view:feature"]
    for name, view in _views(snapshot, reach):
        vector, shown = vector_field(view), _shown(snapshot, name, reach)
        keys = {key.name for key in getattr(view, "entity_columns", ())}
        if vector is not None and vector.name in shown and keys.isdisjoint(_withheld(snapshot, name, reach)):
            others = [feature for feature in shown if feature != vector.name] or shown
            names = [f"{name}:{feature}" for feature in others[:2]]
            break
    return {"features": names, "query_string": "a text", "top_k": 3}


@dataclass(frozen=True, slots=True)
class OpenApi:
    """`GET /openapi.json`."""

    registry: Registry
    access: Access

    async def __call__(self, key_id: str) -> Answer:
        """The document as of now, of what the key is for."""
        snapshot = self.registry.current
        described = document(snapshot, reach_of(self.access, key_id, snapshot))
        return Answer(200, orjson.dumps(described, option=orjson.OPT_INDENT_2), JSON)


@dataclass(frozen=True, slots=True)
class Docs:
    """`GET /docs`: one page without scripts or anything from elsewhere."""

    registry: Registry
    access: Access

    async def __call__(self, key_id: str) -> Answer:
        """The page as of now, of what the key is for."""
        snapshot = self.registry.current
        reach = reach_of(self.access, key_id, snapshot)
        body = page(document(snapshot, reach), reach.views, reach.services)
        policy = ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'")
        return Answer(200, body.encode(), [("content-type", "text/html; charset=utf-8"), policy])


STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
pre { overflow-x: auto; padding: .75rem; border: 1px solid; border-radius: .3rem; opacity: .9 }
code { font-size: .9em } dt { font-weight: 600 } h2 { margin-top: 2.5rem }
"""


def page(described: Mapping[str, Any], views: Sequence[str], services: Sequence[str]) -> str:
    """The OpenAPI document for people."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(described['info']['title'])}</title>",
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>",
        f"<h1>{escape(described['info']['title'])}</h1>",
        f"<p>Feature views: {escape(', '.join(views) or 'none')}. "
        f"Feature services: {escape(', '.join(services) or 'none')}.</p>",
        "<p>Errors are JSON: <code>error</code> is for programs, <code>detail</code> for people. "
        "The whole description: <a href=/openapi.json>/openapi.json</a>.</p>",
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method.upper(), operation))
    return "\n".join(parts)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    lines = [f"<h2><code>{method} {path}</code></h2><p>{escape(operation['summary'])}.</p>"]
    body = operation.get("requestBody")
    if body:
        content = body["content"]["application/json"]
        example = orjson.dumps(content["example"]).decode()
        lines.append(f"<pre><code>curl localhost:6566{path} -d {escape(repr(example))}</code></pre><dl>")
        for name, schema in content["schema"]["properties"].items():
            lines.append(f"<dt><code>{name}</code></dt><dd>{escape(schema.get('description', schema['type']))}</dd>")
        lines.append("</dl>")
    lines.append("<dl>")
    for status, response in operation["responses"].items():
        lines.append(f"<dt>{status}</dt><dd>{escape(response['description'])}</dd>")
    return "\n".join([*lines, "</dl>"])
