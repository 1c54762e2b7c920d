"""What `feast serve` and `millrace serve` answer otherwise to one request, as docs/serving.md lists it."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.serving_repo import Server

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"

Cells = Mapping[str, tuple[list[Any], list[str]]]
"""By feature: its values and their statuses."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server is to answer: a status, and either words of its body or some of the features' columns."""

    status: int
    of: str | Cells = ""

    def check(self, found: tuple[int, Any]) -> None:
        status, body = found
        assert status == self.status, body
        if isinstance(self.of, str):
            assert self.of in (body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)), body
        else:
            given = cells(body)
            assert {name: given.get(name) for name in self.of} == self.of, body


@dataclass(frozen=True, slots=True)
class Difference:
    """One request, and what each of the two answers. Without a `body` it is a GET."""

    body: Any
    theirs: Answer
    ours: Answer
    path: str = "/get-online-features"

    def check(self, theirs: Server, ours: Server) -> None:
        answered = ours.ask(self.path, self.body)
        self.theirs.check(theirs.ask(self.path, self.body))
        self.ours.check(answered)
        if self.ours.status >= 400:
            assert answered[1].keys() == {"error", "detail"}, answered


Differences = Mapping[str, list[Difference]]
"""By the first words of the row that documents them."""


def each(differences: Differences) -> list[tuple[str, int]]:
    """All of them, each by its row and its number there."""
    return [(row, number) for row, found in differences.items() for number in range(len(found))]


def cells(answer: Any) -> dict[str, tuple[list[Any], list[str]]]:
    """By feature, in the order of the answer: its values and their statuses."""
    columns = zip(answer["metadata"]["feature_names"], answer["results"], strict=True)
    return {name: (column["values"], column["statuses"]) for name, column in columns}


def documented() -> list[tuple[str, str, str]]:
    """The rows of the list: what it is about, what Feast does, what millrace does."""
    section = DOCUMENT.read_text().partition("\n## What differs from Feast\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [tuple(cell.strip() for cell in line.strip("| ").split(" | ")) for line in lines[1:]]
    return [(about, theirs, ours) for about, theirs, ours in rows]


def refusals(cell: str) -> set[int]:
    """The statuses of errors that a cell of the list names."""
    return {int(status) for status in re.findall(r"\b[45]\d\d\b", cell)}


def refused(answers: Iterable[Answer]) -> set[int]:
    """The statuses of errors among those answers."""
    return {answer.status for answer in answers if answer.status >= 400}


EWR: dict[str, list[Any]] = {"origin": ["EWR"]}
TRIP: dict[str, list[Any]] = {"origin": ["EWR"], "flight": [1]}
TEMP = {"features": ["weather:temp"], "entities": EWR}
TWO: dict[str, list[Any]] = {"origin": ["EWR", "JFK"], "offset": [9.0, 2.0]}


def found(values: list[Any], *statuses: str) -> tuple[list[Any], list[str]]:
    return values, list(statuses) or ["PRESENT"] * len(values)


def of(entities: dict[str, list[Any]], *features: str, **more: Any) -> dict[str, Any]:
    return {"features": list(features), "entities": entities, **more}


DIFFERENCES: Differences = {
    "the view has nothing of the entity": [
        Difference(
            of({"origin": ["XXX"]}, "airports:name"),
            Answer(200, {"name": found([None])}),
            Answer(200, {"name": found([None], "NOT_FOUND")}),
        ),
    ],
    "the entity's value is null": [
        Difference(
            of({"origin": ["JFK"]}, "weather:sky"),
            Answer(200, {"sky": found([None])}),
            Answer(200, {"sky": found([None], "NULL_VALUE")}),
        ),
    ],
    "the value is older than the view's `ttl`": [
        Difference(
            of({"origin": ["LGA"]}, "weather:temp"),
            Answer(200, {"temp": found([41.0])}),
            Answer(200, {"temp": found([None], "OUTSIDE_MAX_AGE")}),
        ),
    ],
    "an event time outside the years 1 to 9999": [
        Difference(
            of({"origin": ["JFK"]}, "visits:last"), Answer(500, "out of range"), Answer(200, "9999-12-31T23:59:59")
        ),
    ],
    "a null in a timestamp that Feast wrote": [
        Difference(
            of(EWR, "visits:last"),
            Answer(200, {"last": found([-(2**63)])}),
            Answer(200, {"last": found([None], "NULL_VALUE")}),
        ),
    ],
    "a SCALAR_MAP, with keys that are no texts": [
        Difference(
            of({"item": [2]}, "types:scalar_map"),
            Answer(200, {"scalar_map": found([None])}),
            Answer(200, '"scalar_map"'),
        ),
    ],
    "an unknown view, version or service": [
        Difference(
            of(EWR, "wether:temp"),
            Answer(404, "wether does not exist"),
            Answer(404, "no feature view 'wether'; there are: airports, cabin_endless"),
        ),
        Difference(
            of(EWR, "fares@v9:fare"),
            Answer(404, "Version v9 of feature view fares does not exist"),
            Answer(404, "Version v9 of feature view fares does not exist"),
        ),
        Difference(
            {"feature_service": "departures", "entities": EWR},
            Answer(404, "departures does not exist"),
            Answer(404, "no feature service 'departures'; there are: both_ends, departure, felt"),
        ),
    ],
    "an unknown feature, a name twice, no feature at all": [
        Difference(
            of(EWR, "weather:tmp"),
            Answer(500, "Feature tmp not found"),
            Answer(404, "feature view 'weather' has no feature 'tmp'; it has: temp, wind, sky"),
        ),
        Difference(of(EWR, "temp"), Answer(500), Answer(422, "'temp' is no feature: write view:feature")),
        Difference(
            of(EWR, "weather:temp", "weather:temp"), Answer(500), Answer(422, "Duplicate features named temp found")
        ),
        Difference(of(EWR), Answer(500, "No features specified"), Answer(422, "name features, as in")),
    ],
    "a missing join key, a null in one, lists of different lengths": [
        Difference(
            of({"dest": ["EWR"]}, "weather:temp"),
            Answer(500, "Missing join key values"),
            Answer(422, "entities has no 'origin'; these features need: origin"),
        ),
        Difference(
            of(EWR, "routes:delay"),
            Answer(200, {"delay": found([None])}),
            Answer(422, "entities has no 'flight'; these features need: origin, flight"),
        ),
        Difference(
            of({"origin": ["EWR", None]}, "weather:temp"),
            Answer(500),
            Answer(422, "entities.origin must be STRING, and holds null"),
        ),
        Difference(
            of({"origin": ["EWR"], "flight": [1, 2]}, "routes:delay"),
            Answer(500, "must have the same columns"),
            Answer(422, "differ in length (origin: 1, flight: 2)"),
        ),
    ],
    "a join key of another type, or beyond its range": [
        *(
            Difference(
                of({"flight": [key]}, "cabins:seats"),
                Answer(200, {"seats": found([180])}),
                Answer(422, f"entities.flight must be INT64, and holds {kind}"),
            )
            for key, kind in (("1", "str"), (True, "bool"), (1.0, "float"), (1.5, "float"))
        ),
        Difference(
            of({"origin": [1]}, "weather:temp"),
            Answer(200, {"origin": found(["1"]), "temp": found([None])}),
            Answer(422, "entities.origin must be STRING, and holds int"),
        ),
        Difference(
            of({"flight": ["one"]}, "cabins:seats"),
            Answer(500, "invalid literal for int()"),
            Answer(422, "entities.flight must be INT64, and holds str"),
        ),
        Difference(
            of({"origin": ["EWR"], "flight": [2**63]}, "routes:delay"),
            Answer(500, "out of range"),
            Answer(422, "entities.flight has a value that its type cannot hold"),
        ),
    ],
    "a join key, and its entity by name": [
        Difference(
            of({"carrier": ["DL"], "line": ["UA"]}, "lines:planes"),
            Answer(200, {"planes": found([759])}),
            Answer(422, "'carrier' twice"),
        ),
    ],
    "`entities` without a value": [
        Difference(of({}, "weather:temp"), Answer(500), Answer(422, "entities names no entity")),
        Difference(of({"origin": []}, "weather:temp"), Answer(500), Answer(422, "entities names no entity")),
    ],
    "a field of the body that does not exist": [
        Difference({**TEMP, "feature": 1}, Answer(200, {"temp": found([39.25])}), Answer(422, "unknown field feature")),
    ],
    "`features` beside `feature_service`": [
        Difference(
            {**TEMP, "feature_service": "departure"},
            Answer(200, {"temp": found([39.25]), "name": found(["Newark"])}),
            Answer(422, "either features or feature_service, not both"),
        ),
    ],
    '`full_feature_names` or `include_feature_view_version_metadata` that is no boolean, as "yes"': [
        Difference(
            {**TEMP, "full_feature_names": "yes"},
            Answer(200, {"weather__temp": found([39.25])}),
            Answer(422, "full_feature_names must be true or false"),
        ),
        Difference(
            {**TEMP, "include_feature_view_version_metadata": "yes"},
            Answer(200, "feature_view_metadata"),
            Answer(422, "include_feature_view_version_metadata must be true or false"),
        ),
    ],
    "`null` for a field that may be left out": [
        Difference(
            {"features": None, "feature_service": "departure", "entities": EWR},
            Answer(422, "Input should be a valid list"),
            Answer(200, {"temp": found([39.25])}),
        ),
        Difference(
            {**TEMP, "full_feature_names": None, "include_feature_view_version_metadata": None},
            Answer(422, "Input should be a valid boolean"),
            Answer(200, {"temp": found([39.25])}),
        ),
    ],
    "more than the [limits](#settings-and-limits)": [
        Difference(
            of({"origin": ["EWR"] * 10_001}, "weather:temp"),
            Answer(200),
            Answer(413, "10001 entities in one request; at most 10000"),
        ),
    ],
    "request data of an on-demand view that is missing": [
        Difference(
            of(EWR, "felt_python:felt"),
            Answer(404, "['offset'] not found"),
            Answer(422, "entities has no 'offset', which an on-demand feature view asks for"),
        ),
    ],
    "an on-demand view reads a feature that is named as one asked for": [
        Difference(
            of(TRIP, "weather:temp", "cabin_rows:rows"),
            Answer(200, '"feature_names": ["origin", "flight", "temp", "temp", "rows"]'),
            Answer(200, {"temp": found([39.25]), "rows": found([30])}),
        ),
        Difference(
            of({**TRIP, "offset": [1.5]}, "felt_pandas:felt_twice", "cabin_kelvin:kelvin"),
            Answer(500),
            Answer(200, {"felt_twice": found([80.0]), "kelvin": found([294.5])}),
        ),
    ],
    "an on-demand view in Python mode, with `full_feature_names`": [
        Difference(
            of({"flight": [1]}, "cabin_rows:rows", full_feature_names=True),
            Answer(200, '"feature_names": ["flight"]'),
            Answer(200, {"cabin_rows__rows": found([30])}),
        ),
    ],
    "an on-demand feature called as one that its function reads, with `full_feature_names`": [
        Difference(
            of({"flight": [1]}, "cabin_same_pandas:temp", "cabin_same_pandas:colder", full_feature_names=True),
            Answer(200, '"feature_names": ["flight", "cabin_same_pandas__colder"]'),
            Answer(200, {"cabin_same_pandas__temp": found([43.0]), "cabin_same_pandas__colder": found([20.5])}),
        ),
    ],
    "an on-demand view over two views that have a feature of one name": [
        Difference(
            of(TRIP, "outside:difference"),
            Answer(200, {"difference": found([0.0])}),
            Answer(200, {"difference": found([17.75])}),
        ),
    ],
    "two versions of an on-demand view in one request": [
        Difference(
            of({"offset": [1.5]}, "raised@v0:raised", "raised@v1:doubled"),
            Answer(200, {"raised": found([101.5]), "doubled": found([3.0])}),
            Answer(200, {"raised": found([2.5]), "doubled": found([3.0])}),
        ),
    ],
    "an on-demand view over values older than their `ttl`": [
        Difference(
            of({"origin": ["LGA"], "offset": [1.5]}, "felt_python:felt"),
            Answer(200, {"felt": found([42.5])}),
            Answer(200, {"felt": found([None], "NULL_VALUE")}),
        ),
    ],
    "an on-demand view's function raises": [
        Difference(
            of({**EWR, "offset": ["a"]}, "felt_python:felt"),
            Answer(500, "unsupported operand"),
            Answer(422, "on-demand view felt_python failed on these entities: TypeError"),
        ),
    ],
    "it gives fewer values than entities, or more": [
        Difference(
            of(TWO, "given_fewer:first"),
            Answer(200, {"first": found([2.0])}),
            Answer(422, "on-demand view given_fewer gave 1 values of 'first' for 2 entities"),
        ),
        Difference(
            of(TWO, "given_more:first"),
            Answer(200, {"first": found([0.0, 9.0, 2.0])}),
            Answer(422, "on-demand view given_more gave 3 values of 'first' for 2 entities"),
        ),
    ],
    "`/push`, `/materialize`, `/materialize-incremental`, `/write-to-online-store`": [
        Difference({}, Answer(status), Answer(404, f"there is no {path}; there are: /get-online-features"), path)
        for path, status in (
            ("/push", 422),
            ("/materialize", 500),
            ("/materialize-incremental", 422),
            ("/write-to-online-store", 422),
        )
    ],
    "`/v1/vector_stores`, with `/{id}` and `/{id}/search` (OpenAI's form)": [
        Difference(body, answer, Answer(404, f"there is no {path}; there are: /get-online-features"), path)
        for path, body, answer in (
            ("/v1/vector_stores", None, Answer(200, '"object": "list"')),
            ("/v1/vector_stores/vs_1", None, Answer(404, "No vector store found")),
            ("/v1/vector_stores/vs_1/search", {}, Answer(422)),
        )
    ],
}
