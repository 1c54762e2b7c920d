"""`millrace apply` is all that a change of what is declared needs: running workers take it up by themselves."""

import json
from collections.abc import Iterator

import pytest

from millrace.stack.endpoints import Endpoints
from tests.integration.deployed import Running, waited
from tests.integration.shop import Shop, shop


@pytest.fixture(scope="module")
def market(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(stack, tmp_path_factory.mktemp("shop")) as made:
        made.repo.apply()
        yield made


@pytest.fixture(scope="module")
def worker(market: Shop) -> Iterator[Running]:
    with market.repo.worker() as running:
        yield running


def served(market: Shop, feature: str, value: object) -> None:
    """Return once the feature of customer 1 has the value. Each look changes the row: a worker that has not taken up
    what was applied leaves it as it was."""
    view, name = feature.split(":")

    def looked() -> bool:
        market.sql.execute("update customers set credit = credit + 0 where id = 1")
        return market.repo.read(view, [name], [{"id": 1}]) == [{name: value}]

    waited(looked, f"{feature} being {value}")


def test_a_contract(market: Shop, worker: Running) -> None:
    (path,) = (market.repo.path / "contracts").glob("public.customers.json")
    market.sql.execute("update customers set tier = 'platinum' where id = 1")
    waited(lambda: market.repo.command("letters", "list")["count"], "a letter")
    path.write_text(path.read_text().replace('"gold"', '"gold", "platinum"'))
    market.repo.apply()
    served(market, "customer_facts:tier", "platinum")
    market.sql.execute("update customers set tier = 'gold' where id = 1")
    market.settle()
    market.check()


FUNCTION = """
from feast.stream_feature_view import stream_feature_view

RATE = 10.0


@stream_feature_view(
    entities=[customer],
    source=customers,
    mode="pandas",
    ttl=timedelta(days=30),
    schema=[Field(name="id", dtype=Int64), Field(name="limit", dtype=Float64)],
)
def limits(df):
    df["limit"] = df["credit"].astype(float) * RATE
    return df
"""


def test_a_function_and_a_constant_that_it_uses(market: Shop, worker: Running) -> None:
    features = market.repo.path / "features.py"
    market.sql.execute("update customers set credit = 5 where id = 1")
    features.write_text(features.read_text() + FUNCTION)
    market.repo.apply()
    served(market, "limits:limit", 50.0)
    features.write_text(features.read_text().replace("RATE = 10.0", "RATE = 100.0"))
    market.repo.apply()
    served(market, "limits:limit", 500.0)
    market.repo.command("backfill", "--view", "limits")


SCORES = """
scores = cdc_source("{source}.public.scores")
customer_score = FeatureView(
    name="customer_score",
    entities=[customer],
    source=scores,
    schema=[Field(name="id", dtype=Int64), Field(name="score", dtype=Float64)],
)
"""


def test_a_table_that_is_captured_in_addition(market: Shop, worker: Running) -> None:
    market.sql.execute("create table scores (id bigint primary key, score float8)")
    features = market.repo.path / "features.py"
    features.write_text(features.read_text() + SCORES.format(source=market.name))
    contract = {"name": "public.scores", "expectations": [], "meta": {}}
    (market.repo.path / "contracts" / "public.scores.json").write_text(json.dumps(contract))
    market.repo.apply()
    market.sql.execute("insert into scores values (1, 0.5)")
    waited(lambda: market.repo.read("customer_score", ["score"], [{"id": 1}]) == [{"score": 0.5}], "a row of it online")
    market.check()


def test_a_table_that_is_captured_again_after_a_while(market: Shop, worker: Running) -> None:
    """Nothing tells of what was changed while no view captured it."""
    topic = f"{market.name}.public.scores"
    features = market.repo.path / "features.py"
    before = features.read_text()
    features.write_text(before.replace(SCORES.format(source=market.name), ""))
    assert market.repo.apply()["captured_again"] == []
    market.sql.execute("delete from scores where id = 1")
    market.sql.execute("insert into scores values (2, 0.75)")
    market.settle()
    features.write_text(before)
    for _ in range(2):  # it stays so until it was read anew
        assert market.repo.apply()["captured_again"] == [topic]
        problems = market.repo.command("status", code=1)["problems"]
        assert [problem for problem in problems if problem.startswith(f"{topic} was not captured for a while")]
    market.settle()
    report = market.repo.command("resnapshot", topic)["tables"][topic]
    assert (report["rows"], report["deleted"]) == (1, 1)
    assert market.repo.read("customer_score", ["score"], [{"id": 1}, {"id": 2}]) == [{"score": None}, {"score": 0.75}]
    assert market.repo.command("status")["problems"] == []
    assert market.repo.apply()["captured_again"] == []
    market.check()
