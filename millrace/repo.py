"""A feature repo opened: its settings, and Feast's own view of it."""

import difflib
import os
import re
import sys
from collections.abc import Collection, Iterable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

from feast import FeatureStore, FeatureView
from feast.repo_config import RegistryConfig, RepoConfig, load_repo_config
from feast.repo_contents import RepoContents
from feast.repo_operations import _get_repo_contents, apply_total_with_repo_instance
from feast.version_utils import parse_version
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from connectors.table import Table
from millrace import settings
from millrace.modules import check_names, importable
from millrace.on_demand import refused
from millrace.said import said, said_by_module
from millrace.settings import Settings, SettingsError
from serving.applied import Applied
from serving.frozen import Frozen
from stores.errors import NothingApplied
from stores.feast_functions import loading
from streams.declarations import DeclarationError, Declared, captured_views, personal_by_topic
from streams.personal import PersonalColumns

SERIALIZATION = 3
"""Feast's `entity_key_serialization_version`, in which `stores.entity_keys` writes."""


_NO_PROJECT_OBJECT = "No project found in the repository. Using project name "
"""What Feast prints of every repo that declares no Project object: none needs one."""


class UnknownTable(Exception):
    """A table that no view captures."""

    def __init__(self, name: str, captured: Collection[str]) -> None:
        close = difflib.get_close_matches(name, captured, n=1)
        there = ", ".join(sorted(captured)) or "none: run millrace apply"
        instead = f"did you mean {close[0]}?" if close else f"captured are {there}"
        super().__init__(f"no view captures a table {name}; {instead}")


@dataclass(frozen=True, slots=True)
class Repo:
    """A feature repo. `stack_folder` is where a local stack, if one runs, says where its services are."""

    path: Path
    stack_folder: Path
    settings: Settings
    store: FeatureStore
    applied: Applied
    _reads: Lock = field(default_factory=Lock, repr=False)
    """Held while the registry is read: threads of the console share the repo."""

    @property
    def workers_folder(self) -> Path:
        """Where each worker of this project on this machine notes where it listens."""
        return self.stack_folder / "workers" / self.project

    @property
    def config(self) -> RepoConfig:
        """Feast's configuration: project, online and offline store."""
        return self.store.config

    @property
    def project(self) -> str:
        """Feast's project name; it also names the consumer group and the letters topic."""
        return str(self.store.project)

    @property
    def group(self) -> str:
        """The consumer group of this repo's workers."""
        return self.settings.kafka.group or f"millrace.{self.project}"

    @property
    def letters_topic(self) -> str:
        """The topic of this repo's dead letters."""
        return f"{self.project}.letters"

    @property
    def control_topic(self) -> str:
        """The topic on which this repo's workers are asked to go on with a table."""
        return f"{self.project}.control"

    def contract_path(self, table: Table) -> Path:
        """Where a table's contract stands."""
        return self.path / self.settings.contracts / f"{table.schema}.{table.name}.json"

    def declared(self) -> list[Declared]:
        """The captured views of the registry, as last applied. Raises `DeclarationError`, `FunctionUnloadable` and
        `RegistryUnreadable`."""
        declared = self._captured()
        if not declared:
            raise DeclarationError(
                f"project {self.project}", "no view over a captured table is applied", "run millrace apply"
            )
        return declared

    def personal(self) -> dict[str, PersonalColumns]:
        """The columns of each captured table that personal features read, by topic, as last applied. Raises as
        `declared`, but where nothing is captured."""
        return personal_by_topic(self._captured())

    def _captured(self) -> list[Declared]:
        registry = self.registry()
        with loading(registry.proto, self.project):
            views = [*registry.list_feature_views(self.project), *registry.list_stream_feature_views(self.project)]
        entities = registry.list_entities(self.project)
        return captured_views({v.name: v for v in views}.values(), entities, self.settings.sources)

    def registry(self) -> Frozen:
        """The registry as last applied, whole. Raises `RegistryUnreadable`.

        Feast's own takes a part of one that is being written for all of it, and makes one where there is none.
        """
        with self._reads:
            return self.applied.read()

    def online_name(self, view: str) -> str:
        """Feast's name of a view inside the online store: with its version where versioning is on. Raises
        `RegistryUnreadable`."""
        if not self.config.registry.enable_online_feature_view_versioning:
            return view
        version = self.registry().get_any_feature_view(view, self.project).current_version_number
        return f"{view}_v{version}" if version else view


def open_repo(path: Path, stack_folder: Path) -> Repo:
    """Open a feature repo; its modules can be imported from then on. Raises `SettingsError`."""
    path = path.resolve()
    importable(path)
    loaded = settings.load(path, stack_folder)
    settings.publish(settings.environment(stack_folder))
    yaml = path / "feature_store.yaml"
    if not yaml.exists():
        raise SettingsError(f"{yaml} does not exist: millrace init makes a starting repo")
    try:
        store = FeatureStore(repo_path=str(path))
        store.config.registry, store.config.auth_config  # noqa: B018  # which Feast reads once they are asked for
    except Exception as error:
        raise SettingsError(f"{yaml}: Feast refuses it: {said(error)}") from error
    _check_registry(yaml, store.config.registry)
    if (found := store.config.entity_key_serialization_version) != SERIALIZATION:
        raise SettingsError(
            f"{yaml}: entity_key_serialization_version is {found}, and millrace writes the keys of {SERIALIZATION}: "
            f"Feast would find no entity. Set it to {SERIALIZATION}"
        )
    applied = Applied(store.config.model_copy(deep=True))  # of its own: it changes how Feast reads
    return Repo(path, stack_folder, loaded, store, applied)


def _check_registry(yaml: Path, registry: RegistryConfig) -> None:
    """Feast reads the URL of an SQL registry at first use, and what refuses it quotes a password that is not where one
    is expected."""
    if registry.registry_type == "sql":
        try:
            make_url(registry.path)
        except (ArgumentError, ValueError):
            form = "postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE"
            raise SettingsError(f"{yaml}: registry.path is no URL: write {form}") from None


def parse(repo: Repo) -> RepoContents:
    """Import the repo's modules as `feast apply` does. Raises `DeclarationError` naming the file."""
    check_names(repo.path)
    before, printed = Path.cwd(), StringIO()
    sys.path.insert(0, str(repo.path))
    os.chdir(repo.path)
    try:
        config = load_repo_config(repo.path, repo.path / "feature_store.yaml")
        with redirect_stdout(printed):  # a command's stdout is its result
            contents = _get_repo_contents(repo.path, repo.project, config)
    except SyntaxError as error:
        place = f"{Path(error.filename or '').name}, line {error.lineno}"
        raise DeclarationError(place, f"SyntaxError: {error.msg}", "mend it") from error
    except Exception as error:
        problem = f"{type(error).__name__}: {said_by_module(error)}"
        raise DeclarationError(_raised_in(repo.path, error), problem, "mend it") from error
    except SystemExit as error:
        place = _raised_in(repo.path, error)
        if place != str(repo.path):
            raise DeclarationError(place, f"SystemExit: {error}", "take out what ends the process") from error
        # How Feast refuses a Project object.
        raise DeclarationError(
            place, "its Project object does not suit feature_store.yaml", f'name it "{repo.project}"'
        ) from error
    finally:
        sys.stderr.writelines(
            line for line in printed.getvalue().splitlines(keepends=True) if not line.startswith(_NO_PROJECT_OBJECT)
        )
        os.chdir(before)
        sys.path.remove(str(repo.path))
    check_names(repo.path)  # what a module of the repo imports may have taken the name of another
    return contents


def rehearse(repo: Repo, contents: RepoContents) -> None:
    """Feast's own checks of the parsed objects, as its apply makes them. Raises `DeclarationError`, and
    `FunctionUnloadable`: it compares each function with the one that was applied before. Raises
    `RegistryUnreadable` where what was applied can neither be read nor written over.

    With a registry of its own: Feast writes to one even to plan.
    """
    with suppress(NothingApplied):
        Applied(load_repo_config(repo.path, repo.path / "feature_store.yaml")).take()
    config = load_repo_config(repo.path, repo.path / "feature_store.yaml")
    with TemporaryDirectory() as scratch:
        config.registry_config = {"path": f"{scratch}/registry.db"}
        try:
            FeatureStore(config=config).plan(contents)
        except Exception as error:
            general = DeclarationError(str(repo.path), f"Feast refuses it: {said(error)}", "mend it")
            raise refused(error) or general from error


def declared_at(folder: Path, kind: str, name: str) -> str | None:
    """The file and line that declare a "view" or a "source" of that name; None if that cannot be read off."""
    quoted = rf"""["']{re.escape(name)}["']"""
    patterns = {
        "view": rf"FeatureView\(\s*(?:name\s*=\s*)?{quoted}|def\s+{re.escape(name)}\s*\(",
        "source": rf"(?:cdc_source|Source)\([^()]*?{quoted}",
    }
    for path in sorted(folder.rglob("*.py")) if kind in patterns else ():
        # Of any encoding: it is read for names alone, and may be of no module that Feast imports.
        text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
        if found := re.search(patterns[kind], text):
            line = text.count("\n", 0, found.start()) + 1
            return f"{path.relative_to(folder)}, line {line}"
    return None


def register(repo: Repo, contents: RepoContents) -> None:
    """Feast's own apply of the parsed objects: registry, online and offline stores."""
    if repo.config.registry.enable_online_feature_view_versioning:
        _keep_versions(repo, [*contents.feature_views, *contents.stream_feature_views])
    with redirect_stdout(sys.stderr):
        apply_total_with_repo_instance(
            repo.store, repo.project, repo.store.registry, contents, skip_source_validation=True
        )


def _keep_versions(repo: Repo, views: Iterable[FeatureView]) -> None:
    """Give views that are declared as the latest the number that they are applied with: Feast takes one back to 0 that
    is applied again as it was (`Registry._update_metadata_fields`), and with it what is served to an older state."""
    with suppress(NothingApplied):
        message = repo.registry().proto()  # not the views: a function that cannot be loaded is no matter
        applied = [v for v in (*message.feature_views, *message.stream_feature_views) if v.spec.project == repo.project]
        numbers = {view.spec.name: view.meta.current_version_number or None for view in applied}
        for view in views:
            if parse_version(view.version)[0]:
                view.current_version_number = numbers.get(view.name)


def _raised_in(folder: Path, error: BaseException) -> str:
    """The innermost line of the repo's own files on the way to the error."""
    place, traceback = str(folder), error.__traceback__
    while traceback is not None:
        filename = Path(traceback.tb_frame.f_code.co_filename)
        if filename.is_relative_to(folder):
            place = f"{filename.relative_to(folder)}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
