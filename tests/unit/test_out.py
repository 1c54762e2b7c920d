"""What a command prints with --json is JSON."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import pytest
from feast.feature_server_utils import _float_to_native
from hypothesis import given
from hypothesis import strategies as st

from millrace.cli import Failed, Out

LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner))


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def printed(value: Any) -> Any:
    """What a program reads that takes JSON alone."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("click.echo", lines.append)
        Out(as_json=True).result({"value": value}, str)
    (line,) = lines
    return json.loads(line, parse_constant=refuse)["value"]


def served(value: Any) -> Any:
    """The value with its numbers as Feast's own server writes them."""
    if isinstance(value, float):
        return _float_to_native(value)
    if isinstance(value, dict):
        return {key: served(item) for key, item in value.items()}
    return [served(item) for item in value] if isinstance(value, list | tuple) else value


@given(VALUES)
def test_every_result_is_json_with_the_numbers_of_a_server(value: Any) -> None:
    assert printed(value) == served(value)


def test_what_json_has_no_form_for_is_text() -> None:
    moment = datetime(2013, 2, 12, tzinfo=UTC)
    assert printed([Decimal("NaN"), Path("a"), moment]) == ["NaN", "a", "2013-02-12 00:00:00+00:00"]


def test_an_error_is_one_line_whatever_a_library_said(capsys: pytest.CaptureFixture[str]) -> None:
    Failed("connection refused\n\tIs the server running?\n").show()
    assert capsys.readouterr().err == "error: connection refused Is the server running?\n"
