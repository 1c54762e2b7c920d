"""`millrace compact` over a lake that workers write meanwhile."""

import json
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from millrace.cli import millrace
from stores.delta import REWRITE_SECONDS, DeltaLake
from tests.unit.command_repo import command_repo

TABLE = "features/orders"


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    command_repo(tmp_path)
    (tmp_path / "lake").mkdir()
    lake = DeltaLake(str(tmp_path / "lake"))
    for name in (TABLE, "features/other"):
        lake.create(name, pa.schema([("a", pa.int64())]), {})
        for number in range(1, 4):
            lake.append_once(name, pa.table({"a": [number]}), "a job", number)
    return lake


def compact(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(millrace, ["compact", "--repo", str(folder), *options])


def test_what_a_worker_merges_just_then_is_left_to_it(lake: DeltaLake, tmp_path: Path) -> None:
    DeltaLake(lake.root)._claimed(TABLE, time.time() + REWRITE_SECONDS)
    result = compact(tmp_path, "--json")
    tables = json.loads(result.stdout)["tables"]
    assert (tables[TABLE]["merged"], tables["features/other"]["merged"]) == (0, 3)
    assert result.exit_code == 1 and f"{TABLE}: merged by another process meanwhile; run it again" in result.stderr


def test_replaced_files_are_kept_for_a_while(lake: DeltaLake, tmp_path: Path) -> None:
    result = compact(tmp_path, "--json")
    assert json.loads(result.stdout)["tables"][TABLE] == {"merged": 3, "deleted": 0}
    assert (result.exit_code, result.stderr) == (0, "")
    assert lake.vacuum(TABLE, timedelta(0)) == 3


def test_a_time_in_which_a_flush_may_be_under_way_is_refused(lake: DeltaLake, tmp_path: Path) -> None:
    result = compact(tmp_path, "--keep-hours", "0")
    assert result.exit_code == 2 and "x>=1" in result.output


def test_a_file_among_the_tables_is_none(lake: DeltaLake, tmp_path: Path) -> None:
    (tmp_path / "lake" / "features" / "notes.txt").write_text("not ours")
    assert lake.tables() == (TABLE, "features/other")
    assert compact(tmp_path).exit_code == 0


def test_a_table_that_is_named_twice_is_merged_once(lake: DeltaLake, tmp_path: Path) -> None:
    result = compact(tmp_path, "--json", "--table", TABLE, "--table", TABLE)
    assert json.loads(result.stdout)["tables"] == {TABLE: {"merged": 3, "deleted": 0}}
