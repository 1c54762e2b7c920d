"""`millrace.yaml` and the environment: the only place that reads either.

Any value may hold `${NAME}` or `${NAME:-default}`. NAME is looked up in the environment of the process, then
in the `env` file of a running local stack, so that a repo works unchanged on the stack, under compose and in
production. Any value can also be set without touching the file: `MILLRACE__WORKER__FLUSH_SECONDS=5`
overrides `worker.flush_seconds`.
"""

import difflib
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from millrace.said import said

STACK_FOLDER = ".millrace"
OVERRIDE = "MILLRACE__"
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class SettingsError(Exception):
    """A mistake in `millrace.yaml`: the text names file and key and says what to write instead."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(_Section):
    """One source database."""

    url: str
    slot: str = Field("", description="of the replication slot; derived from project and source if empty")
    publication: str = Field("", description="of the publication; the slot's name if empty")
    partitions: int = Field(4, ge=1, description="partitions of each table's topic")
    connector: dict[str, str] = Field(default_factory=dict, description="any Debezium property, as Debezium names it")


class KafkaSettings(_Section):
    """The broker."""

    bootstrap_servers: str = "${MILLRACE_KAFKA}"
    group: str | None = None
    retention_hours: int = Field(168, ge=1, description="of the tables' topics; the letters are kept for ever")

    @property
    def retention_seconds(self) -> int:
        return self.retention_hours * 3_600


class ConnectSettings(_Section):
    """Kafka Connect."""

    url: str = "${MILLRACE_CONNECT}"


class ProviderSettings(_Section):
    """One embedding provider; the first that answers with the view's model is used."""

    type: Literal["wordllama", "http"] = "wordllama"
    url: str = ""
    model: str = ""
    length: int = 256
    dimensions: bool = Field(False, description="send `dimensions` with each request, for models that can shorten")
    batch: int = Field(256, ge=1, description="texts a request")
    timeout: float = Field(10.0, gt=0, description="seconds")
    api_key: str = Field("", repr=False)


class WorkerYaml(_Section):
    """How a worker batches; see `docs/operations.md`."""

    poll_records: int = Field(7_500, ge=1)
    flush_rows: int = Field(50_000, ge=1)
    flush_seconds: float = Field(1.0, gt=0)
    stage_rows: int = Field(200_000, ge=1)
    stage_bytes: int = Field(64 * 1024 * 1024, ge=1)
    max_record_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    reject_share: float = Field(0.5, gt=0, le=1)
    reject_least: int = Field(200, ge=1)
    window_rows: int = Field(100_000, ge=1, description="a window of table-level expectations ends at so many rows")
    window_seconds: float = Field(60.0, gt=0, description="or after this time")
    health_port: int = Field(0, ge=0, le=65_535, description="0: a free one, printed at start")
    health_host: str = "127.0.0.1"


class ServeYaml(_Section):
    """`millrace serve`; see `docs/serving.md`."""

    host: str = "127.0.0.1"
    port: int = Field(6566, ge=0, le=65_535)
    hosts: str = Field("", description="names that it is asked by, a,b; without keys localhost")
    grpc_port: int = Field(0, ge=0, le=65_535, description="of Feast's ServingService; 0: no gRPC")
    workers: int = Field(0, ge=0, description="processes; 0: one a core")
    body_bytes: int = Field(1 << 20, ge=1024)
    entities: int = Field(10_000, ge=1, description="of one request")
    features: int = Field(1_000, ge=1, description="of one request")
    cells: int = Field(1_000_000, ge=1, description="entities times features of one request, and 16 bytes for each")
    top_k: int = Field(1_000, ge=1, description="of one search")
    header_seconds: float = Field(5.0, gt=0, description="for the head of the next request to arrive")
    request_seconds: float = Field(5.0, gt=0, description="for its body to arrive and its answer to be made")
    store_seconds: float = Field(0.5, gt=0, description="for Redis to answer, before it is taken for slow")
    replicas: str = Field("", description="host:port,host:port,password=...: what reads go to; empty: the online store")
    keys: str = Field("", description="host:port,...: the Redis with the API keys; empty: the online store")
    concurrency: int = Field(256, ge=1, description="requests that a process works on at once")
    queue: int = Field(1024, ge=0, description="requests that wait for that; beyond, 503")
    connections: int = Field(4096, ge=1, description="connections of a process")
    drain_seconds: float = Field(10.0, gt=0, description="for what has begun when the server is told to stop")
    registry_seconds: float = Field(2.0, gt=0, description="between looks at the registry")
    audit: bool = Field(True, description="a log line a request")
    tls_cert: str = Field("", description="PEM file of the certificate with its chain; empty: no TLS")
    tls_key: str = Field("", description="PEM file of its key")
    tls_client_ca: str = Field("", description="PEM file of the authorities whose clients are let in; empty: any")


class Settings(_Section):
    """All of `millrace.yaml`."""

    sources: dict[str, SourceSettings]
    kafka: KafkaSettings = KafkaSettings()
    connect: ConnectSettings = ConnectSettings()
    embeddings: list[ProviderSettings] = [ProviderSettings()]
    worker: WorkerYaml = WorkerYaml()
    serve: ServeYaml = ServeYaml()
    contracts: str = "contracts"


def environment(folder: Path) -> dict[str, str]:
    """The process's environment, completed by what the local stack in `folder` wrote when it started."""
    return {**_stack_environment(folder), **os.environ}


def java_home() -> Path | None:
    """The Java that the user prefers for the local stack."""
    home = os.environ.get("JAVA_HOME")
    return Path(home) if home else None


def publish(variables: Mapping[str, str]) -> None:
    """Put variables into the process's environment, where Feast expands `feature_store.yaml` from."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def load(repo: Path, stack_folder: Path) -> Settings:
    """Read `<repo>/millrace.yaml`. Raises `SettingsError`."""
    return _read(repo / "millrace.yaml", environment(stack_folder))


def check_variables(path: Path) -> None:
    """Raises `SettingsError` for a variable of `feature_store.yaml` that is not set, or has a default, which Feast does
    not know: it would take `${NAME}` as it stands there for an address or a folder."""
    found = yaml.safe_load(path.read_text())
    _expanded(found, os.environ, path, "")
    if with_default := next((m for m in VARIABLE.finditer(yaml.safe_dump(found)) if m[2] is not None), None):
        name = with_default[1]
        raise SettingsError(f"{path}: Feast knows no defaults, and {name} has one: write ${{{name}}}, and set it")


def stands_alone(repo: Path) -> bool:
    """Whether `<repo>/millrace.yaml` and the environment of the process name every address, so that the repo needs
    nothing of a local stack."""
    try:
        _read(repo / "millrace.yaml", os.environ)
    except SettingsError:
        return False
    return True


def _read(path: Path, variables: Mapping[str, str]) -> Settings:
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise SettingsError(f"{path} does not exist: millrace init makes one, --repo names another folder") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {said(error)}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{path} is empty: it needs at least `sources:`")
    try:
        # Expanded twice: what is written may be a number that comes from the environment, and defaults name
        # variables too.
        written = Settings.model_validate(_expanded(_overridden(document, variables), variables, path, ""))
        return Settings.model_validate(_expanded(written.model_dump(), variables, path, ""))
    except ValidationError as error:
        raise SettingsError(f"{path}: " + "; ".join(_explain(e) for e in error.errors())) from error


def _stack_environment(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / "env").read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines if "=" in line)
    try:
        return {name: "".join(shlex.split(value)) for name, value in pairs}
    except ValueError as error:
        raise SettingsError(f"{folder}/env is no list of exports ({error}): millrace up writes it anew") from error


def _overridden(document: dict[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    for name, value in variables.items():
        if name.startswith(OVERRIDE):
            *parents, last = name.removeprefix(OVERRIDE).lower().split("__")
            section = document
            for parent in parents:
                section[parent] = section.get(parent) or {}
                section = section[parent]
            try:
                section[last] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise SettingsError(f"the variable {name} is not YAML: {said(error)}; quote its value") from error
    return document


def _expanded(value: Any, variables: Mapping[str, str], path: Path, key: str) -> Any:
    if isinstance(value, dict):
        return {k: _expanded(v, variables, path, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_expanded(v, variables, path, f"{key}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = variables.get(name, default)
        if found is None:
            raise SettingsError(
                f"{path}: {key} needs the environment variable {name}, which is not set: "
                "start a local stack with millrace up, or set it"
            )
        return found

    return VARIABLE.sub(replace, value)


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']}"
    known = _known_keys(error["loc"][:-1])
    close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
    instead = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
    return f"{key}: unknown key; {instead}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location:
        if part in model.model_fields:
            annotation = model.model_fields[part].annotation
            candidates = [annotation, *get_args(annotation)]
            models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
            model = models[0] if models else model
    return sorted(model.model_fields)
