"""`millrace.yaml`: what may stand in it, where values come from, and what a mistake is told."""

import os
from pathlib import Path

import pytest

from millrace.settings import Settings, SettingsError, check_variables, environment, load, stands_alone
from millrace.stack.endpoints import Endpoints

MINIMAL = "sources: {shop: {url: 'postgresql://u:p@h/shop'}}\n"


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repo, in an environment without settings but for the addresses that defaults name."""
    for name in [name for name in os.environ if name.startswith("MILLRACE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MILLRACE_KAFKA", "k:9092")
    monkeypatch.setenv("MILLRACE_CONNECT", "http://c:8083")
    return tmp_path


def loaded(repo: Path, text: str, stack: str = "no-stack") -> Settings:
    (repo / "millrace.yaml").write_text(text)
    return load(repo, repo / stack)


def refused(repo: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(repo, text)
    message = str(caught.value)
    assert message.startswith(str(repo / "millrace.yaml"))
    return message


def test_a_source_is_enough(repo: Path) -> None:
    settings = loaded(repo, MINIMAL)
    assert settings.sources["shop"].url == "postgresql://u:p@h/shop"
    assert (settings.kafka.bootstrap_servers, settings.connect.url) == ("k:9092", "http://c:8083")
    assert [provider.type for provider in settings.embeddings] == ["wordllama"]


def test_a_variable_comes_from_the_process_then_from_the_stack_then_from_its_default(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo / "stack").mkdir()
    (repo / "stack" / "env").write_text("export SHOP='of the stack'\nexport MILLRACE_KAFKA=of-the-stack\n")
    text = "sources: {shop: {url: '${SHOP:-by default}'}}\n"
    assert loaded(repo, text).sources["shop"].url == "by default"
    settings = loaded(repo, text, "stack")
    assert settings.sources["shop"].url == "of the stack"
    assert settings.kafka.bootstrap_servers == "k:9092"
    monkeypatch.setenv("SHOP", "of the process")
    assert loaded(repo, text, "stack").sources["shop"].url == "of the process"
    assert environment(repo / "stack")["SHOP"] == "of the process"


def test_a_repo_stands_alone_if_nothing_of_it_is_the_stacks(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / "millrace.yaml").write_text(MINIMAL)
    assert stands_alone(repo)
    monkeypatch.delenv("MILLRACE_CONNECT")
    assert not stands_alone(repo)
    (repo / "millrace.yaml").write_text(MINIMAL + "connect: {url: 'http://connect:8083'}\n")
    assert stands_alone(repo)
    assert not stands_alone(repo / "nowhere")


def test_a_number_may_come_from_a_variable(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS", "12")
    assert loaded(repo, MINIMAL + "worker: {poll_records: '${ROWS}'}").worker.poll_records == 12


def test_any_value_can_be_set_from_outside(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE__WORKER__FLUSH_SECONDS", "5")
    monkeypatch.setenv("MILLRACE__SOURCES__SHOP__PARTITIONS", "7")
    monkeypatch.setenv("MILLRACE__KAFKA__GROUP", "mine")
    settings = loaded(repo, MINIMAL + "kafka:\n")
    assert (settings.worker.flush_seconds, settings.sources["shop"].partitions) == (5.0, 7)
    assert settings.kafka.group == "mine"


def test_a_variable_that_is_not_set_is_named_with_its_key(repo: Path) -> None:
    message = refused(repo, "sources: {shop: {url: '${SHOP}/x'}}")
    assert "sources.shop.url needs the environment variable SHOP, which is not set" in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("workers: {}", "workers: unknown key; did you mean worker?"),
        ("worker: {flush_second: 1}", "worker.flush_second: unknown key; did you mean flush_seconds?"),
        ("kafka: {zzz: 1}", "kafka.zzz: unknown key; known keys: bootstrap_servers, group, retention_hours"),
        ("worker: {poll_records: 0}", "worker.poll_records: Input should be greater than or equal to 1"),
        ("worker: {poll_records: many}", "worker.poll_records: Input should be a valid integer"),
        ("embeddings: [{type: magic}]", "embeddings.0.type: Input should be 'wordllama' or 'http'"),
        ("embeddings: [{modle: x}]", "embeddings.0.modle: unknown key; did you mean model?"),
    ],
)
def test_a_mistake_is_named_with_its_key(repo: Path, text: str, problem: str) -> None:
    assert problem in refused(repo, MINIMAL + text)


def test_a_mistake_in_a_source_is_named_with_its_key(repo: Path) -> None:
    text = "sources: {shop: {url: x, partition: 2}}"
    assert "sources.shop.partition: unknown key; did you mean partitions?" in refused(repo, text)
    assert "sources: Field required" in refused(repo, "kafka: {}")


@pytest.mark.parametrize(("text", "problem"), [("", "is empty"), ("- x", "is empty"), ("a: [", "is not YAML")])
def test_a_file_that_holds_no_settings(repo: Path, text: str, problem: str) -> None:
    assert problem in refused(repo, text)


def test_feasts_own_file_names_no_variable_that_is_not_set(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feast would take `${NAME}` as it stands there for an address."""
    yaml = repo / "feature_store.yaml"
    yaml.write_text("project: shop\nonline_store:\n  connection_string: ${SHOP_REDIS}  # not ${THIS}\n")
    with pytest.raises(SettingsError, match=r"online_store.connection_string needs the .* variable SHOP_REDIS, .* not"):
        check_variables(yaml)
    monkeypatch.setenv("SHOP_REDIS", "redis:6379")
    check_variables(yaml)
    yaml.write_text("online_store: {connection_string: '${SHOP_REDIS:-localhost:6379}'}\n")
    with pytest.raises(SettingsError, match=r"defaults, and SHOP_REDIS has one: write \$\{SHOP_REDIS\}, and set") as no:
        check_variables(yaml)
    assert "6379" not in str(no.value)


@pytest.mark.parametrize("text", ["api: [s3cr3t", "api: *s3cr3t", "api: !s3cr3t x", "api: 's3cr3t\nb: c"])
def test_a_file_that_is_not_yaml_is_not_quoted(repo: Path, text: str) -> None:
    message = refused(repo, MINIMAL + text)
    assert ": line " in message
    assert "s3cr3t" not in message


def test_a_variable_that_is_not_yaml_is_named_and_not_quoted(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE__KAFKA__GROUP", "@s3cr3t")
    with pytest.raises(
        SettingsError, match=r"the variable MILLRACE__KAFKA__GROUP is not YAML: .*; quote its value"
    ) as no:
        loaded(repo, MINIMAL)
    assert "s3cr3t" not in str(no.value)


def test_a_file_that_is_not_there(repo: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist: millrace init makes one, --repo names another folder"):
        load(repo, repo)


def test_what_a_stack_exports_comes_back_whatever_its_folder_is_called(repo: Path) -> None:
    stack = repo / 'it\'s "the" stack'
    stack.mkdir()
    exported = Endpoints("k:1", "http://c", "r:2", "postgresql://u:p@h", stack / "lake")
    (stack / "env").write_text(exported.exports())
    assert environment(stack)["MILLRACE_LAKE"] == str(stack / "lake")


def test_an_env_of_a_stack_that_is_no_list_of_exports_is_told(repo: Path) -> None:
    (repo / "stack").mkdir()
    (repo / "stack" / "env").write_text("export SHOP='of the stack\n")
    with pytest.raises(SettingsError, match=r"stack/env is no list of exports .*: millrace up writes it anew"):
        environment(repo / "stack")
