"""What commands say of what they are asked that makes no sense."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from connectors.source import Source
from millrace.cli import millrace
from millrace.commands.read import show_search
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
    for made in (lambda: Source("shop", url, "slot", "publication").address(), lambda: PgVectors(url, 60.0)):
        with pytest.raises(ValueError, match="write an @ in the password as %40") as told:
            made()
        assert "secret" not in str(told.value)


def test_a_search_that_finds_nothing_says_so() -> None:
    told = show_search({"view": "airport_search", "text": "a text", "results": [], "statuses": []})
    assert told == "nothing found: view airport_search holds no vectors"


INTERRUPTED = """
import sys
from millrace.__main__ import main

class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
main()
"""


@pytest.mark.parametrize("module", ["click", "millrace.settings", "millrace.commands.stack"])
def test_an_interrupt_while_modules_are_imported_is_no_traceback(module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED.format(module=module), "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")
