"""What commands say of what they are asked that makes no sense."""

from pathlib import Path

from click.testing import CliRunner

from millrace.cli import millrace


def test_no_nearest_at_all_is_no_search() -> None:
    result = CliRunner().invoke(millrace, ["search", "a text", "--top", "0"])
    assert result.exit_code == 2 and "--top" in result.output


def test_down_where_there_is_no_stack(tmp_path: Path) -> None:
    result = CliRunner().invoke(millrace, ["down", "--stack", str(tmp_path / "here")])
    assert result.exit_code == 0
    assert result.output == f"there is no stack in {tmp_path / 'here'}: --stack names another folder\n"
