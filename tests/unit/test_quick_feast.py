"""Feast's constructors check types for those commands only that read declarations."""

import subprocess
import sys
from pathlib import Path

import pytest

WRONG = """
import sys
from millrace.cli import millrace
millrace.get_command(None, sys.argv[1])
import typeguard
from feast import Entity

@typeguard.typechecked
def taken(value: int) -> int:
    return value

for make in (lambda: Entity(name=1), lambda: taken("one")):
    try:
        make()
    except typeguard.TypeCheckError:
        print("checked")
    else:
        print("taken")
"""


@pytest.mark.parametrize(("command", "said"), [("apply", ["checked", "checked"]), ("run", ["taken", "checked"])])
def test_what_reads_declarations_checks_their_types(command: str, said: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # typeguard reads the source
    script.write_text(WRONG)
    ran = subprocess.run([sys.executable, "-W", "ignore", script, command], capture_output=True, text=True)
    assert ran.stdout.split() == said, ran.stderr
