"""Reading a suite file: the JSON that Great Expectations 1.x writes for an `ExpectationSuite`."""

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from validation.catalogue import DOMAIN_KWARGS, EXPECTATIONS, IGNORE_ROW_IF, Signature
from validation.errors import ContractError, RuleError
from validation.rule import Rule, Severity

_SUITE_KEYS = ("name", "expectations", "meta", "id", "notes", "suite_parameters")
_EXPECTATION_KEYS = (
    "type",
    "kwargs",
    "severity",
    "meta",
    "notes",
    "id",
    "description",
    "expectation_context",
    "rendered_content",
)
_SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_PARSERS = ("pandas", "great_expectations", "great_expectations__experimental__")
"""Of a `row_condition`: what Great Expectations takes besides is for Spark."""
_VERSION_DIGITS = 12
_MOST_NAMES = 40
"""How many known names an error shows where none is like the unknown one."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite as read; see `validation.contract.Contract` for `version`."""

    name: str
    version: str
    rules: tuple[Rule, ...]


def read(path: Path, schema: pa.Schema) -> Suite:
    """Read and check a suite for a table of these columns. Raises `ContractError`."""
    content = _content(path)
    rules: list[Rule] = []
    for index, entry in enumerate(content["expectations"]):
        named = entry.get("type") if isinstance(entry, dict) else None
        try:
            rules.append(_rule(index, entry, schema))
        except RuleError as error:
            raise ContractError(path, index, error.problem, error.instead, named) from error
    return Suite(content["name"], _version(path, content), tuple(_with_unique_ids(rules)))


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ContractError(
            path, None, "there is no such file", 'write the suite; {"name": "any", "expectations": []} takes every row'
        ) from None
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:
        raise ContractError(
            path, None, f"it is not JSON: {error}", "correct it, or write it anew with suite.to_json_dict()"
        ) from error
    try:
        _require_suite(content)
    except RuleError as error:
        raise ContractError(path, None, error.problem, error.instead) from error
    return dict(content)


def _require_suite(content: Any) -> None:
    if not isinstance(content, dict):
        raise RuleError("it holds no JSON object", 'write {"name": ..., "expectations": [...]}')
    if "expectation_suite_name" in content:
        raise RuleError("it is a suite of Great Expectations 0.x", 'write "name" and "type"')
    _require_known(content, _SUITE_KEYS, "key")
    if not isinstance(content.get("name"), str) or not content["name"]:
        raise RuleError("it has no name", 'write "name": "<schema>.<table>"')
    if not isinstance(content.get("expectations"), list):
        raise RuleError("it has no list of expectations", 'write "expectations": [...]')


def _version(path: Path, content: Mapping[str, Any]) -> str:
    try:
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:_VERSION_DIGITS]
    except UnicodeEncodeError as error:
        raise ContractError(
            path, None, f"it holds half a character: {error}", "write both halves of the \\u escape"
        ) from error
    except RecursionError:
        raise _too_deep(path) from None


def _too_deep(path: Path) -> ContractError:
    return ContractError(path, None, "its JSON is nested too deeply", "write it flatter")


def _rule(index: int, entry: Any, schema: pa.Schema) -> Rule:
    if not isinstance(entry, dict):
        raise RuleError("it is no JSON object", 'write {"type": ..., "kwargs": {...}}')
    if "expectation_type" in entry:
        raise RuleError("expectation_type is of Great Expectations 0.x", "write type")
    _require_known(entry, _EXPECTATION_KEYS, "key")
    expectation, kwargs = entry.get("type"), entry.get("kwargs", {})
    if not isinstance(expectation, str):
        raise RuleError("it has no type", 'write "type": "expect_..."')
    _require_known([expectation], EXPECTATIONS, "expectation")
    if not isinstance(kwargs, dict):
        raise RuleError("its kwargs are no JSON object", 'write "kwargs": {...}')
    signature = EXPECTATIONS[expectation]
    _require_kwargs(expectation, kwargs, signature)
    columns = _columns(kwargs, signature, schema)
    named, notes = entry.get("id"), entry.get("notes")
    if named is not None and not isinstance(named, str):
        raise RuleError(f"its id is {named!r}", "write a text, or leave it out")
    if not (notes is None or isinstance(notes, str) or (isinstance(notes, list) and _all_texts(notes))):
        raise RuleError(f"its notes are {notes!r}", "write a text, or a list of texts")
    return Rule(
        id=named or f"{','.join(columns)}:{expectation}".lstrip(":"),
        index=index,
        expectation=expectation,
        columns=columns,
        kwargs=kwargs,
        severity=_severity(entry),
        notes=tuple(notes) if isinstance(notes, list) else notes,
    )


def _all_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _severity(entry: Mapping[str, Any]) -> Severity:
    named = entry.get("severity") or "critical"
    for severity in _SEVERITIES:
        if severity == named:
            return severity
    raise RuleError(f"its severity is {named!r}", f"write one of {', '.join(_SEVERITIES)}")


def _require_kwargs(expectation: str, kwargs: Mapping[str, Any], signature: Signature) -> None:
    if signature.level == "sql":
        raise RuleError(
            "Great Expectations evaluates it in a database only, not on a stream",
            "use expect_column_values_to_match_regex" if "like" in expectation else "remove it",
        )
    domain = DOMAIN_KWARGS[signature.domain]
    _require_known(kwargs, (*domain, *signature.required, *signature.optional), "kwarg")
    for key in (*domain, *sorted(signature.required)):
        if kwargs.get(key) is None:
            raise RuleError(f"{key} is missing", f"write it into its kwargs: {key}")
    for key, value in kwargs.items():
        if isinstance(value, dict) and "$PARAMETER" in value:
            raise RuleError(f"{key} is a suite parameter, which nothing fills", "write the value itself")
    parser = kwargs.get("condition_parser")
    if parser is not None and parser not in _PARSERS:
        raise RuleError(f"condition_parser is {parser!r}", f"write one of {', '.join(_PARSERS)}")
    mostly = kwargs.get("mostly", 1)
    if isinstance(mostly, bool) or not isinstance(mostly, int | float) or not 0 <= mostly <= 1:
        raise RuleError(f"mostly is {mostly!r}", "write a share between 0 and 1")
    allowed = IGNORE_ROW_IF.get(signature.domain, ())
    if "ignore_row_if" in kwargs and kwargs["ignore_row_if"] not in allowed:
        raise RuleError(f"ignore_row_if is {kwargs['ignore_row_if']!r}", f"write one of {', '.join(allowed)}")


def _columns(kwargs: Mapping[str, Any], signature: Signature, schema: pa.Schema) -> tuple[str, ...]:
    named: list[Any] = []
    for key in DOMAIN_KWARGS[signature.domain]:
        value = kwargs[key]
        named += value if signature.domain == "columns" and isinstance(value, list) else [value]
    for name in named:
        if not isinstance(name, str):
            raise RuleError(f"{name!r} is no name of a column", "write the name in quotes")
    _require_known(named, schema.names, "column")
    if signature.domain == "columns" and len(set(named)) < max(2, len(named)):
        raise RuleError("column_list needs two or more different columns", "name each column once")
    return tuple(named)


def _require_known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises `RuleError` for the first name that is not known, with the likeliest one in its place."""
    allowed = sorted(known)
    for name in names:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=3)
            likely = ", ".join(map(repr, close or allowed[:_MOST_NAMES])) or "none"
            raise RuleError(f"unknown {what} {name!r}", f"did you mean {likely}?" if close else f"known: {likely}")


def _with_unique_ids(rules: list[Rule]) -> Iterable[Rule]:
    seen: Counter[str] = Counter()
    for rule in rules:
        seen[rule.id] += 1
        repeat = seen[rule.id]
        yield rule if repeat == 1 else replace(rule, id=f"{rule.id}#{repeat}")
