"""How far long work is, as it is told."""

import os
import pty
import subprocess
import sys

from millrace.progress import progress

WORK = """
from millrace.progress import progress
with progress(print) as told:
    for done in (0, 1_200, 2_400):
        told("comparing goods", done, None)
    told("filling goods", 0.25, 1.0)
"""


def test_without_a_terminal_each_part_is_said_once() -> None:
    said: list[str] = []
    with progress(said.append) as told:
        told("comparing goods", 0, None)
        told("comparing goods", 1_200, None)
        told("filling goods", 0.25, 1.0)
    assert said == ["comparing goods", "filling goods"]


def test_a_terminal_shows_rows_or_the_share_that_is_done() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        os.close(ours)
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert b"comparing goods: 2,400 rows" in shown
    assert b"filling goods" in shown and b"25%" in shown
