"""An `apply` that was cut off, met another, or moved what is served to another place: nothing goes by half of it, and
what is left to do is told by one that comes to its end."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from connectors.lock import alone
from millrace.anew import noted
from millrace.repo import open_repo
from millrace.stack.endpoints import Endpoints
from millrace.wiring import source
from tests.integration.deployed import Running
from tests.integration.shop import SCORES, Shop, shop
from tests.waiting import waited

TIER = """
customer_tier = FeatureView(
    name="customer_tier",
    entities=[customer],
    source=customers,
    schema=[Field(name="id", dtype=Int64), Field(name="tier", dtype=String)],
)
"""

NAMES = """
from feast.types import Array, Float32
customer_names = FeatureView(
    name="customer_names",
    entities=[customer],
    source=customers,
    schema=[Field(name="id", dtype=Int64), Field(name="name", dtype=String){vector}],
)
"""
VECTOR = (
    ', Field(name="vec", dtype=Array(Float32), vector_index=True, vector_length=256, vector_search_metric="cosine", '
    'tags={"embeds": "name"})'
)


@pytest.fixture(scope="module")
def market(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """With versions of views: Feast keeps each under a name of its own online."""
    with shop(stack, tmp_path_factory.mktemp("shop")) as made:
        yaml = made.repo.path / "feature_store.yaml"
        versions = "  enable_online_feature_view_versioning: true\n"
        yaml.write_text(yaml.read_text().replace("registry:\n", f"registry:\n{versions}"))
        made.sql.execute("create table scores (id bigint primary key, score float8)")
        made.sql.execute("insert into scores values (1, 0.5)")
        contract = {"name": "public.scores", "expectations": [], "meta": {}}
        (made.repo.path / "contracts" / "public.scores.json").write_text(json.dumps(contract))
        made.repo.apply()
        yield made


@pytest.fixture(scope="module")
def worker(market: Shop) -> Iterator[Running]:
    with market.repo.worker() as running:
        market.settle()
        yield running


CUT_OFF = "import os; from millrace import apply, cli; apply.{step} = lambda *_: os._exit(9); cli.millrace()"


def cut_off(market: Shop, step: str) -> None:
    """An apply that is killed before a step of it."""
    options = market.repo.process("apply")[3:]
    done = subprocess.run([sys.executable, "-c", CUT_OFF.format(step=step), *options], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr


def test_what_was_cut_off_hinders_nobody_and_is_told_by_the_next(market: Shop, worker: Running) -> None:
    features, topic = market.repo.path / "features.py", f"{market.name}.public.scores"
    features.write_text(features.read_text() + TIER + SCORES.format(source=market.name))
    for step in ("_create_vector_tables", "note_stored"):
        cut_off(market, step)
        assert market.repo.command("backfill", "--view", "last_order")["views"]["last_order"]["rows_added"] == 0
    applied = market.repo.apply()
    assert (applied["to_resnapshot"], applied["to_backfill"]) == ([topic], ["customer_tier"])
    again = market.repo.apply()
    assert (again["to_resnapshot"], again["to_backfill"]) == ([], [])
    market.repo.command("resnapshot", topic)
    market.repo.command("backfill", "--view", "customer_tier")
    assert market.repo.read("customer_score", ["score"], [{"id": 1}]) == [{"score": 0.5}]
    assert market.repo.command("status")["problems"] == []
    market.check()


def test_a_table_that_its_connector_leaves_out(market: Shop, worker: Running) -> None:
    """As an apply of other declarations leaves it that was cut off before Feast knew of them."""
    features, topic = market.repo.path / "features.py", f"{market.name}.public.scores"
    before, digest = features.read_text(), noted(market.repo.lake(), market.repo.project)
    features.write_text(before.replace(SCORES.format(source=market.name), ""))
    cut_off(market, "register")
    market.sql.execute("insert into scores values (2, 0.25)")
    problems = market.repo.command("status", code=1)["problems"]
    assert [problem for problem in problems if problem.startswith(f"{topic}: connector {market.name} leaves it out")]
    features.write_text(before)
    assert market.repo.apply()["captured_again"] == [topic]
    assert noted(market.repo.lake(), market.repo.project) != digest  # whoever started meanwhile starts anew
    market.repo.command("resnapshot", topic)
    assert market.repo.read("customer_score", ["score"], [{"id": 2}]) == [{"score": 0.25}]
    assert market.repo.command("status")["problems"] == []


def test_one_apply_of_a_source_at_a_time(market: Shop) -> None:
    with alone(source(open_repo(market.repo.path, market.repo.stack_folder), market.name), "apply"):
        told = market.repo.refused("apply")
    assert told.startswith(f"error: source {market.name}: a command on ")
    assert told.endswith(" is at it; one apply of a source at a time")


def test_a_view_of_which_feast_makes_a_new_version(market: Shop, worker: Running) -> None:
    """A field's description is enough for it; what is served is under the new one's name from then on."""
    features, tier = market.repo.path / "features.py", 'Field(name="tier", dtype=String)]'
    features.write_text(features.read_text().replace(tier, tier.replace(")]", ', description="Of three.")]')))
    assert market.repo.apply()["to_backfill"] == ["customer_tier"]
    assert market.repo.read("customer_tier", ["tier"], [{"id": 1}]) == [{"tier": None}]
    market.repo.command("backfill", "--view", "customer_tier")
    assert market.repo.read("customer_tier", ["tier"], [{"id": 1}]) == [{"tier": "silver"}]
    market.sql.execute("update customers set tier = 'gold' where id = 1")
    waited(lambda: market.repo.read("customer_tier", ["tier"], [{"id": 1}]) == [{"tier": "gold"}], "a change after it")
    assert market.repo.apply()["to_backfill"] == []
    market.check()


def test_a_view_that_goes_to_another_store(market: Shop, worker: Running) -> None:
    """As the refusal tells to take it there. Rows that are deleted while it is elsewhere are not served again."""
    features, topic = market.repo.path / "features.py", f"{market.name}.public.customers"
    without = features.read_text()

    def declared(vector: str | None) -> None:
        features.write_text(without + (NAMES.replace("{vector}", vector) if vector is not None else ""))

    def moved(vector: str) -> None:
        declared(None)
        market.repo.apply()
        declared(vector)
        applied = market.repo.apply()
        assert applied["to_backfill"] == ["customer_names"]
        assert applied["to_resnapshot"] == ([topic] if vector else [])
        market.repo.command("backfill", "--view", "customer_names")
        for table in applied["to_resnapshot"]:
            market.repo.command("resnapshot", table)

    market.sql.execute("insert into customers (id, name, tier) values (901, 'Ida', 'gold'), (902, 'Udo', 'gold')")
    declared("")
    assert market.repo.apply()["to_backfill"] == ["customer_names"]
    market.repo.command("backfill", "--view", "customer_names")
    keys = [{"id": 901}, {"id": 902}]
    assert market.repo.read("customer_names", ["name"], keys) == [{"name": "Ida"}, {"name": "Udo"}]
    declared(VECTOR)
    assert "take the view out and run millrace apply, then put it back" in market.repo.refused("apply")
    moved(VECTOR)
    assert market.repo.read("customer_names", ["name"], keys) == [{"name": "Ida"}, {"name": "Udo"}]
    (found,) = market.repo.command("search", "Ida", "--view", "customer_names", "--top", "1")["results"]
    assert found["name"] == "Ida"
    vector = "vector_length=256"
    features.write_text(features.read_text().replace(vector, f'{vector}, description="Of names."'))
    assert market.repo.apply()["to_backfill"] == ["customer_names"]
    assert market.repo.command("search", "Ida", "--view", "customer_names")["results"] == []
    market.repo.command("backfill", "--view", "customer_names")
    assert market.repo.command("search", "Ida", "--view", "customer_names", "--top", "1")["results"] == [found]
    market.sql.execute("delete from customers where id = 902")
    market.settle()
    moved("")
    assert market.repo.read("customer_names", ["name"], keys) == [{"name": "Ida"}, {"name": None}]
    market.check()
