"""Dead letters in `/console` of a real server, on a real Kafka: shown, and replayed by a key that may."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace.stack.endpoints import Endpoints
from tests.integration.dead_letter import DeadLetter, capture, send_letter
from tests.integration.serving_repo import Server, make_repo, millrace
from tests.integration.test_console import Browser, new_key, until_known
from tests.redis_server import RedisServer

PROJECT = f"served{uuid.uuid4().hex[:6]}"


@pytest.fixture(scope="module")
def letter(stack: Endpoints) -> DeadLetter:
    return send_letter(stack.kafka, PROJECT)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, stack: Endpoints) -> Iterator[Path]:
    """Without a view over the letter's table."""
    folder = tmp_path_factory.mktemp("served")
    store = RedisServer().start()
    make_repo(folder, store.port, project=PROJECT, kafka=stack.kafka)
    yield folder
    store.stop()


@pytest.fixture(scope="module")
def server(repo: Path, letter: DeadLetter) -> Iterator[Server]:
    new_key(repo, "first")
    with millrace(repo, "--with-keys", request_seconds=30) as running:
        yield running


def test_a_letter_is_shown_and_replayed_by_a_key_that_may(server: Server, repo: Path, letter: DeadLetter) -> None:
    reader, operator = Browser(server), Browser(server)
    keys = new_key(repo, "reader"), new_key(repo, "operator", replay=True)
    until_known(lambda: reader.enter(keys[0]))
    until_known(lambda: operator.enter(keys[1]))
    text = shown(reader)
    assert "to_be_in_set on tier: &#39;&lt;gold&gt;&#39;" in text
    assert f"{letter.table}<small>partition 0, offset 5" in text
    assert "/console/replay" not in text
    assert reader.ask("/console/replay", {"letter": "0"})[0] == 403
    assert "/console/replay" in shown(operator)
    assert operator.ask("/console/replay", {"letter": "7"})[0] == 404
    status, refused = operator.ask("/console/replay", {"letter": "0"})
    assert (status, f"letter 0 is of {letter.table}, which no view captures" in refused) == (422, True)
    assert letter.replays() == []
    capture(repo, letter)
    assert operator.ask("/console/replay", {"letter": "0"})[0] == 303
    assert letter.replays() == [letter.replayed]
    assert 'event=letter_replayed msg="letter 0 replayed" key=operator letter=0' in server.output.read_text()


def test_a_replay_without_a_registry_says_so(server: Server, repo: Path, letter: DeadLetter) -> None:
    operator, sent = Browser(server), letter.replays()
    key = new_key(repo, "other", replay=True)
    until_known(lambda: operator.enter(key))
    shown(operator)
    registry = repo / "registry.db"
    aside = registry.rename(repo / "aside.db")
    try:
        status, text = operator.ask("/console/replay", {"letter": "0"})
    finally:
        aside.rename(registry)
    assert (status, "there is no registry at" in text) == (503, True)
    assert letter.replays() == sent


def shown(browser: Browser) -> str:
    """The page of letters, once Kafka has answered."""
    for _ in range(30):
        status, text = browser.ask("/console/letters")
        assert status == 200
        if "cannot be read" not in text:
            return text
    raise AssertionError(text)
