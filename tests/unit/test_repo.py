"""A feature repo as it is opened: what a mistake in it is told, and that no password is."""

from pathlib import Path

import pytest

from millrace.repo import Repo, open_repo, parse
from millrace.settings import SettingsError
from stores.vectors import PgVectors
from streams.declarations import DeclarationError
from tests.unit.command_repo import command_repo

STORE = "stores.feast_online.MillraceOnlineStore"
SECRET = "s3cr3t-Pa55"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    command_repo(tmp_path)
    return tmp_path


def opened(folder: Path) -> Repo:
    return open_repo(folder, folder / "stack")


def written(folder: Path, old: str, new: str) -> None:
    """feature_store.yaml with another line in place of the one that begins so."""
    file = folder / "feature_store.yaml"
    lines = [new if line.startswith(old) else line for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "online_store",
            f"{{type: {STORE}, key_ttl_seconds: 60, connection_string: 'h:6379,password={SECRET}'}}",
            "key_ttl_seconds would forget features",
        ),
        ("online_store", f"{{type: {STORE}, conection_string: 'h:6379,password={SECRET}'}}", "conection_string: Extra"),
        ("registry", f"{{path: ['{SECRET}']}}", "path: Input should be a valid string"),
        ("registry", f"*{SECRET}", "line 3, column 11: found undefined alias ..."),
    ],
)
def test_what_feast_refuses_is_told_without_what_stands_there(folder: Path, old: str, new: str, told: str) -> None:
    written(folder, old, f"{old}: {new}")
    with pytest.raises(SettingsError) as caught:
        opened(folder)
    assert f"{folder}/feature_store.yaml: Feast refuses it: " in str(caught.value)
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_module_that_a_library_refuses_is_told_without_what_stands_there(folder: Path) -> None:
    (folder / "of_a_config.py").write_text(
        "from feast.repo_config import RegistryConfig\n\n"
        f"try:\n    RegistryConfig(path=['{SECRET}'])\n"
        "except ValueError as error:\n    raise RuntimeError(f'what? {error}')\n"
    )
    with pytest.raises(DeclarationError) as caught:
        parse(opened(folder))
    assert str(caught.value) == "of_a_config.py, line 6: RuntimeError: path: Input should be a valid string; mend it"


@pytest.mark.parametrize("url", [f"postgresql://u:{SECRET}", SECRET])
def test_the_url_of_the_vector_store_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="URL of the vector store is none: write postgresql://") as caught:
        PgVectors(url)
    assert SECRET not in str(caught.value)
