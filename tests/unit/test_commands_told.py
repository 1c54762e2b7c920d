"""What commands say of what they are asked that makes no sense."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from connectors.source import Source
from millrace.cli import millrace
from stores.vectors import PgVectors


def test_no_nearest_at_all_is_no_search() -> None:
    result = CliRunner().invoke(millrace, ["search", "a text", "--top", "0"])
    assert result.exit_code == 2 and "--top" in result.output


def test_down_where_there_is_no_stack(tmp_path: Path) -> None:
    result = CliRunner().invoke(millrace, ["down", "--stack", str(tmp_path / "here")])
    assert result.exit_code == 0
    assert result.output == f"there is no stack in {tmp_path / 'here'}: --stack names another folder\n"


def test_an_entity_of_two_values_is_no_entity(tmp_path: Path) -> None:
    result = CliRunner().invoke(millrace, ["lookup", "facts", "-e", "id=1", "-e", "id=2", "--repo", str(tmp_path)])
    assert result.exit_code == 1 and "a join key is given twice" in result.output


def test_what_follows_an_at_sign_in_a_password_is_not_shown() -> None:
    url = "postgresql://u:s3c r3t@secret@127.0.0.1:5432/shop"
    for made in (lambda: Source("shop", url, "slot", "publication").address(), lambda: PgVectors(url)):
        with pytest.raises(ValueError, match="write an @ in the password as %40") as told:
            made()
        assert "secret" not in str(told.value)
