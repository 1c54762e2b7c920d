"""A feature repo as it is opened: what a mistake in it is told, and that no password is."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from re import escape, fullmatch
from uuid import uuid4

import pytest

from millrace.console import RepoPlatform
from millrace.lookup import look_up
from millrace.repo import Repo, open_repo, parse, register, rehearse
from millrace.settings import SettingsError
from serving.console.platform import PlatformUnavailable
from stores.feast_functions import FunctionUnloadable
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
    told = "of_a_config.py, line 6: RuntimeError: what? path: Input should be a valid string; mend it"
    assert str(caught.value) == told


@pytest.mark.parametrize("as_well", ["", " from None", " from error"])
def test_what_a_module_says_of_an_error_that_it_caught_is_told(folder: Path, as_well: str) -> None:
    (folder / "of_a_setting.py").write_text(
        "from feast.repo_config import RegistryConfig\n\n"
        f"try:\n    RegistryConfig(path=['{SECRET}'])\n"
        f"except ValueError as error:\n    raise RuntimeError('set SHOP_PATH'){as_well}\n"
    )
    with pytest.raises(DeclarationError) as caught:
        parse(opened(folder))
    assert str(caught.value) == "of_a_setting.py, line 6: RuntimeError: set SHOP_PATH; mend it"


@pytest.mark.parametrize("url", [f"postgresql+psycopg://u:{SECRET}", SECRET])
def test_the_url_of_the_registry_is_refused_without_its_password(folder: Path, url: str) -> None:
    written(folder, "registry", f"registry: {{registry_type: sql, path: '{url}'}}")
    with pytest.raises(SettingsError, match=r"registry\.path is no URL: write postgresql") as caught:
        opened(folder)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", [f"postgresql://u:{SECRET}", SECRET])
def test_the_url_of_the_vector_store_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="URL of the vector store is none: write postgresql://") as caught:
        PgVectors(url, 60.0)
    assert SECRET not in str(caught.value)


ENTITY = "from feast import Entity\n\ngoods = Entity(name='goods', join_keys=['id'])\n"


@pytest.mark.parametrize(
    ("file", "other"),
    [
        ("validation.py", "millrace's own package validation"),
        ("stores/more.py", "millrace's own package stores"),
        ("json.py", "the standard library's json"),
        ("turtle.py", "the standard library's turtle"),  # which nobody has imported
        ("feast.py", "another module (.*feast/__init__.py)"),
        ("yaml.py", "another module (.*yaml/__init__.py)"),
    ],
)
def test_a_file_that_feast_would_not_read_is_refused(folder: Path, file: str, other: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(ENTITY)
    name = file.removesuffix(".py").replace("/", ".")
    with pytest.raises(DeclarationError) as caught:
        parse(opened(folder))
    told = f"{file}: Feast imports it as {name}, which is {other}; rename it"
    assert fullmatch(escape(told).replace(r"\.\*", ".*"), str(caught.value))


def test_a_file_of_a_name_that_only_another_module_of_the_repo_imports_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "a_taking.py").write_text(
        "import sys, types\n\nb_taken = sys.modules['b_taken'] = types.ModuleType('b_taken')\nb_taken.__file__ = 'x'\n"
    )
    (folder / "b_taken.py").write_text(ENTITY)
    with pytest.raises(
        DeclarationError, match=r"b_taken.py: Feast imports it as b_taken, which is another module \(x\)"
    ):
        parse(opened(folder))
    del sys.modules["b_taken"]


def test_what_a_module_prints_is_heard_and_no_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing of a Project object, which no repo needs."""
    (folder / f"printing_{uuid4().hex}.py").write_text("print('as it is read')")
    parse(opened(folder))
    assert capsys.readouterr() == ("", "as it is read\n")


def test_a_file_that_feast_ignores_may_have_any_name(folder: Path) -> None:
    (folder / "json.py").write_text(ENTITY)
    (folder / ".feastignore").write_text("json.py\n")
    parse(opened(folder))


VIEW = """
from datetime import timedelta

from feast import Entity, Field, ValueType
from feast.stream_feature_view import stream_feature_view
from feast.types import Int64, String

from millrace.declare import cdc_source
from {name}_texts import first

goods = Entity(name="goods", join_keys=["id"], value_type=ValueType.INT64)


def short(text):
    return first(text, 3)


@stream_feature_view(
    entities=[goods],
    source=cdc_source("shop.public.goods"),
    ttl=timedelta(days=1),
    mode="python",
    schema=[Field(name="id", dtype=Int64), Field(name="short", dtype=String)],
)
def goods_short(rows):
    return {{**rows, "short": [short(name) for name in rows["name"]]}}
"""


@pytest.fixture
def applied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repo with a function that calls one of its own module, which calls one of another; both are as yet unknown to
    this process, as to one that has not applied it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"goods_{uuid4().hex[:8]}"
    texts = folder / f"{name}_texts.py"
    texts.write_text("def first(text, count):\n    return text[:count]\n")
    (folder / f"{name}.py").write_text(VIEW.format(name=name))
    repo = opened(folder)
    register(repo, parse(repo))
    forget(folder)
    yield texts
    forget(folder)


def forget(folder: Path) -> None:
    for name in [file.stem for file in folder.glob("*.py")]:
        sys.modules.pop(name, None)
    sys.path[:] = [place for place in sys.path if place != str(folder)]
    importlib.invalidate_caches()


def test_a_function_finds_the_helpers_of_its_repo_in_any_process(applied: Path) -> None:
    for _ in range(2):
        repo = opened(applied.parent)
    assert sys.path[-1] == str(repo.path)
    assert sys.path.count(str(repo.path)) == 1
    (declared,) = repo.declared()
    assert declared.view.udf({"id": [1], "name": ["lamp"]}) == {"id": [1], "name": ["lamp"], "short": ["lam"]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, r"ModuleNotFoundError: No module named 'goods_\w+_texts'.*"),
        ("import no_such_package\n", r"No module named 'no_such_package' \(.*/goods_\w+_texts\.py, line 1\)"),
        ("def first(text, count)\n", r"SyntaxError: .* \(.*/goods_\w+_texts\.py, line 1\)"),
        ("first = 1 / 0\n", r"ZeroDivisionError: division by zero \(.*/goods_\w+_texts\.py, line 1\)"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_told_with_its_view_and_its_module(
    applied: Path, text: str | None, told: str
) -> None:
    if text is None:
        applied.unlink()
    else:
        applied.write_text(text)
    repo = opened(applied.parent)
    known = rf"view goods_short: its function cannot be loaded here: .*{told}; install the package that it needs, or"
    with pytest.raises(FunctionUnloadable, match=known):
        repo.declared()
    with pytest.raises(FunctionUnloadable, match=known):
        look_up(repo, ["goods_short"], {"id": "1"})
    with pytest.raises(PlatformUnavailable, match=known):
        RepoPlatform(repo).state()


def test_a_helper_that_the_function_as_applied_needs_is_missed_before_anything_is_changed(applied: Path) -> None:
    module = next(file for file in applied.parent.glob("goods_*.py") if file != applied)
    module.write_text(
        module.read_text().replace("short(", "shorten(").replace("def goods_shorten(", "def goods_short(")
    )
    repo = opened(applied.parent)
    contents = parse(repo)
    with pytest.raises(FunctionUnloadable, match=r"view goods_short: .* 'short' .*; install the package"):
        rehearse(repo, contents)
    module.write_text(f"{module.read_text()}\n\nshort = shorten\n")
    forget(applied.parent)
    repo = opened(applied.parent)
    contents = parse(repo)
    rehearse(repo, contents)
    register(repo, contents)
