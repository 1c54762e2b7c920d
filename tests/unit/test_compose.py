"""docker-compose.yml and pom.xml agree with the settings of the local stack."""

import re
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace.stack import jars, services
from streams.health import Health

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]

KAFKA_PLACE = {
    "KAFKA_HEAP_OPTS",
    "KAFKA_LISTENERS",
    "KAFKA_ADVERTISED_LISTENERS",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
    "KAFKA_CONTROLLER_QUORUM_VOTERS",
    "KAFKA_LOG_DIRS",
}
"""What depends on where the broker runs."""

CONNECT_OWN_NAMES = {
    "group.id",
    "key.converter",
    "value.converter",
    "config.storage.topic",
    "offset.storage.topic",
    "status.storage.topic",
    "offset.flush.interval.ms",
}
"""Properties for which Debezium's image has variables without the prefix CONNECT_, which it would overwrite."""


def as_variable(prefix: str, key: str) -> str:
    return prefix + key.upper().replace(".", "_")


def flags(command: list[str], flag: re.Pattern[str]) -> dict[str, str]:
    """The settings of a command line `PROGRAM FLAG VALUE FLAG VALUE ...`."""
    names, values = command[1::2], command[2::2]
    assert all(flag.fullmatch(name) for name in names)
    return dict(zip((name.lstrip("-") for name in names), values, strict=True))


def test_kafka_settings_agree() -> None:
    given = {
        name: value
        for name, value in SERVICES["kafka"]["environment"].items()
        if name.startswith("KAFKA_") and name not in KAFKA_PLACE
    }
    assert given == {as_variable("KAFKA_", key): value for key, value in services.KAFKA.items()}


def test_connect_settings_agree() -> None:
    given = dict(SERVICES["connect"]["environment"])
    assert given.pop("BOOTSTRAP_SERVERS") == "kafka:9092"
    assert given.pop("HEAP_OPTS") == SERVICES["kafka"]["environment"]["KAFKA_HEAP_OPTS"]
    assert given == {
        as_variable("" if key in CONNECT_OWN_NAMES else "CONNECT_", key): value
        for key, value in services.CONNECT.items()
    }


def test_heaps_agree() -> None:
    heap = SERVICES["kafka"]["environment"]["KAFKA_HEAP_OPTS"].split()
    assert heap == [option for option in services.JAVA_OPTIONS if option.startswith("-Xm")]


def test_postgres_settings_agree() -> None:
    command = SERVICES["postgres"]["command"]
    assert command[0] == "postgres"
    assert set(command[1::2]) == {"-c"}
    assert dict(setting.split("=", 1) for setting in command[2::2]) == services.POSTGRES
    assert SERVICES["postgres"]["environment"]["POSTGRES_INITDB_ARGS"].split() == list(services.POSTGRES_INITDB)


def test_postgres_has_the_role_the_database_and_the_extension() -> None:
    environment = SERVICES["postgres"]["environment"]
    assert environment["POSTGRES_USER"] == environment["POSTGRES_DB"] == services.DATABASE
    assert "create extension if not exists vector" in COMPOSE["configs"]["vector"]["content"]


def test_redis_settings_agree() -> None:
    command = SERVICES["redis"]["command"]
    assert command[0] == "redis-server"
    assert flags(command, re.compile("--[a-z-]+")) == services.REDIS


def test_image_versions_agree() -> None:
    assert SERVICES["postgres"]["image"] == f"pgvector/pgvector:pg{services.POSTGRES_VERSION}"
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{services.KAFKA_VERSION}"
    assert SERVICES["connect"]["image"] == f"quay.io/debezium/connect:{services.DEBEZIUM_VERSION}"
    assert SERVICES["redis"]["image"] == f"redis:{services.REDIS_VERSION}"


def test_pom_versions_agree() -> None:
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    pom = ElementTree.parse(ROOT / "pom.xml")
    versions = {f"${{{name.tag.rpartition('}')[2]}}}": name.text for name in pom.find("m:properties", space) or []}
    named = {
        f"{dependency.findtext('m:artifactId', '', space)}-{versions[dependency.findtext('m:version', '', space)]}.jar"
        for dependency in pom.findall("m:dependencies/m:dependency", space)
    }
    assert set(jars.REQUIRED) <= named


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_alone(name: str) -> None:
    assert all(str(port).startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_restarts_and_is_pinned(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"]
    tag = service["image"].rpartition(":")[2]
    assert tag and tag != "latest"


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"apply"}))
def test_every_server_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize(("name", "port"), [("worker", "8080"), ("server", "6566")])
@pytest.mark.parametrize("waiting_for", [None, "Redis"])
def test_health_is_not_asked_for_through_a_proxy(name: str, port: str, waiting_for: str | None) -> None:
    """Docker hands containers the proxies that its user has."""
    _, _, *arguments = SERVICES[name]["healthcheck"]["test"]
    health = Health("127.0.0.1", 0, lambda: {"waiting_for": waiting_for, "paused": {}}, lambda accept: (b"", ""))
    listening = health.address.rpartition(":")[2]
    command = [sys.executable, *(argument.replace(f":{port}/", f":{listening}/") for argument in arguments)]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
    asked = subprocess.run(command, env={"http_proxy": proxy}, stderr=subprocess.DEVNULL)
    health.close()
    assert (asked.returncode == 0) is (waiting_for is None)


def test_connect_is_not_asked_through_a_proxy() -> None:
    _, *command = SERVICES["connect"]["healthcheck"]["test"]
    assert flags(command[:3], re.compile("--noproxy")) == {"noproxy": "*"}


def test_dependencies_exist_and_can_become_true() -> None:
    for service in SERVICES.values():
        for name, need in service.get("depends_on", {}).items():
            if need["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert need["condition"] == "service_completed_successfully"
                assert SERVICES[name]["restart"].startswith("on-failure")


def test_volumes_and_configs_are_declared() -> None:
    for service in SERVICES.values():
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"])
        assert {config["source"] for config in service.get("configs", [])} <= set(COMPOSE["configs"])


def test_passwords_have_no_default_outside_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    interpolated = set(re.findall(r"\$\{(\w+)", text))
    required = set(re.findall(r"\$\{(\w+):\?[^}]+\}", text))
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert interpolated == required == set(example)
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name:
                assert value.startswith("${")
            assert not re.search(r"://[^/@:]*:[^$][^/@]*@", str(value))


def test_millrace_containers_get_every_address() -> None:
    from millrace.stack.endpoints import Endpoints

    addresses = Endpoints(kafka="", connect="", redis="", postgres="", lake=Path())
    for name in ("apply", "worker", "server"):
        assert set(addresses.environment()) <= set(SERVICES[name]["environment"])


def test_the_image_installs_locked_hashes_and_does_not_run_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes" in lines
    assert re.search(r"^USER (?!root)\w+$", lines, re.MULTILINE)
