"""The starting repo: whole, and true to the settings that it explains."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from millrace import template
from millrace.cli import COMMANDS, millrace
from millrace.settings import ProviderSettings, Settings, SourceSettings, load

# A key that is commented out, as YAML: the comment's sign goes, what is explained behind it stays a comment.
COMMENTED = re.compile(r"^( *)# (?= *(?:- )?[a-z_.]+:)", re.MULTILINE)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    template.write(tmp_path / "repo")
    return tmp_path / "repo"


def uncommented(repo: Path) -> dict[str, Any]:
    """millrace.yaml with all its keys."""
    header, _, body = (repo / "millrace.yaml").read_text().partition("\n\n")
    assert all(line.startswith("# ") for line in header.splitlines())
    document: dict[str, Any] = yaml.safe_load(COMMENTED.sub(r"\1", body))
    return document


def test_init_writes_what_a_repo_needs(tmp_path: Path) -> None:
    result = CliRunner().invoke(millrace, ["init", str(tmp_path / "new"), "--json"])
    assert result.exit_code == 0, result.output
    names = {str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert names >= {"feature_store.yaml", "millrace.yaml", "features.py", "README.md", "schema.sql"}
    assert {"contracts/public.customers.json", "contracts/public.orders.json"} <= names


def test_init_leaves_a_folder_with_files_alone(repo: Path) -> None:
    (repo / "mine").write_text("mine")
    result = CliRunner().invoke(millrace, ["init", str(repo)])
    assert result.exit_code == 1
    assert "is not empty: name a new folder" in result.output


def test_init_says_that_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = CliRunner().invoke(millrace, ["init", str(tmp_path / "file")])
    assert result.exit_code == 2 and "is a file" in result.output
    result = CliRunner().invoke(millrace, ["init", str(tmp_path / "file" / "new")])
    assert result.exit_code == 1 and "Not a directory: name a folder that can be written" in result.output
    assert (tmp_path / "file").read_text() == "mine"


def test_its_settings_hold_as_they_are(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MILLRACE_POSTGRES", "MILLRACE_KAFKA", "MILLRACE_CONNECT"):
        monkeypatch.setenv(name, "x")
    assert list(load(repo, repo).sources) == ["shop"]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (Settings, ()),
        (SourceSettings, ("sources", "shop")),
        *((field.annotation, (name,)) for name, field in Settings.model_fields.items() if name in ("kafka", "connect")),
        (Settings.model_fields["worker"].annotation, ("worker",)),
        (Settings.model_fields["serve"].annotation, ("serve",)),
    ],
)
def test_its_settings_explain_every_key(repo: Path, model: type[BaseModel], path: tuple[str, ...]) -> None:
    section = uncommented(repo)
    for part in path:
        section = section[part]
    assert set(section) == set(model.model_fields)


def test_its_settings_explain_every_key_of_a_provider(repo: Path) -> None:
    shown = {key for provider in uncommented(repo)["embeddings"] for key in provider}
    assert shown == set(ProviderSettings.model_fields)


@pytest.mark.parametrize("section", ["kafka", "connect", "worker", "contracts"])
def test_what_is_commented_out_is_the_default(repo: Path, section: str) -> None:
    settings = Settings.model_validate(uncommented(repo))
    defaults = Settings(sources={})
    shown, default = getattr(settings, section), getattr(defaults, section)
    if section == "kafka":
        shown = shown.model_copy(update={"group": None})  # named as what it is derived to
    assert shown == default


def test_its_readme_names_commands_that_there_are(repo: Path) -> None:
    named = set(re.findall(r"^ +millrace (\w+)", (repo / "README.md").read_text(), re.MULTILINE))
    assert {"up", "apply", "run", "lookup", "verify"} <= named <= set(COMMANDS)
