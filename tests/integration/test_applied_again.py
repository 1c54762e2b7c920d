"""`millrace apply` is all that a change of what is declared needs: running workers take it up by themselves."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.connect import Connect
from connectors.source import default_slot
from millrace import started_anew
from millrace.repo import open_repo
from millrace.resnapshot import recover, resnapshot
from millrace.stack.endpoints import Endpoints
from streams.kafka import KafkaConsumer
from tests.integration.deployed import Running
from tests.integration.shop import SCORES, Shop, shop
from tests.waiting import waited


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
    done = market.repo.apply()
    assert (len(done["workers"]), done["to_backfill"], done["to_resnapshot"]) == (1, [], [])
    # At once: it is judged by the new contract.
    assert market.repo.command("letters", "replay", "--all")["replayed"] == 1
    market.settle()
    assert market.repo.read("customer_facts", ["tier"], [{"id": 1}]) == [{"tier": "platinum"}]
    assert market.repo.command("letters", "list")["count"] == 1
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
    done = market.repo.apply()
    assert (done["to_backfill"], done["warnings"]) == (["limits"], [])
    served(market, "limits:limit", 50.0)
    before = features.read_text()
    features.write_text(before.replace('df["credit"].astype(float)', 'df["credit"].map(float)'))
    (warning,) = market.repo.apply()["warnings"]
    assert warning.startswith("view limits: its function fails on ") and "raised TypeError: " in warning
    features.write_text(before.replace("RATE = 10.0", "RATE = 100.0"))
    market.repo.apply()
    served(market, "limits:limit", 500.0)
    market.repo.command("backfill", "--view", "limits")


def test_a_view_that_is_put_back_while_another_kept_its_table_captured(market: Shop, worker: Running) -> None:
    features = market.repo.path / "features.py"
    before = features.read_text()
    features.write_text(before.replace(before[before.index("RATE = ") :], ""))
    assert market.repo.apply()["to_backfill"] == []
    market.sql.execute("update customers set credit = 6 where id = 2")
    market.settle()
    features.write_text(before)
    assert market.repo.apply()["to_backfill"] == ["limits"]
    assert market.repo.apply()["to_backfill"] == []
    market.settle()
    market.repo.command("backfill", "--view", "limits")
    assert market.repo.read("limits", ["limit"], [{"id": 2}]) == [{"limit": 600.0}]
    market.check()


def test_a_table_that_is_captured_in_addition(market: Shop, worker: Running) -> None:
    market.sql.execute("create table scores (id bigint primary key, score float8)")
    features = market.repo.path / "features.py"
    features.write_text(features.read_text() + SCORES.format(source=market.name))
    contract = {"name": "public.scores", "expectations": [], "meta": {}}
    (market.repo.path / "contracts" / "public.scores.json").write_text(json.dumps(contract))
    done = market.repo.apply()
    assert (done["to_resnapshot"], done["captured_again"]) == ([f"{market.name}.public.scores"], [])
    market.sql.execute("insert into scores values (1, 0.5)")
    waited(lambda: market.repo.read("customer_score", ["score"], [{"id": 1}]) == [{"score": 0.5}], "a row of it online")
    market.check()


def test_a_table_that_its_publication_lost(market: Shop, worker: Running) -> None:
    """As by a hand in the database: its changes are in no stream, and what mends the publication cannot tell them."""
    topic = f"{market.name}.public.scores"
    (publication,) = market.sql.execute("select pubname from pg_publication").fetchall()
    market.sql.execute(f'alter publication "{publication[0]}" drop table scores')
    market.sql.execute("insert into scores values (3, 0.25)")
    market.sql.execute("delete from scores where id = 1")
    problems = market.repo.command("status", code=1)["problems"]
    assert [problem for problem in problems if problem.startswith(f"{topic}: publication {publication[0]} lacks it")]
    assert market.repo.apply()["captured_again"] == [topic]
    problems = market.repo.command("status", code=1)["problems"]
    assert [problem.split(":")[0] for problem in problems] == [f"{topic} was not captured for a while"]
    market.settle()
    report = market.repo.command("resnapshot", topic)["tables"][topic]
    assert (report["rows"], report["deleted"]) == (1, 1)
    assert market.repo.command("status")["problems"] == []
    assert market.repo.read("customer_score", ["score"], [{"id": 1}, {"id": 3}]) == [{"score": None}, {"score": 0.25}]
    market.sql.execute("insert into scores values (1, 0.5)")
    market.sql.execute("delete from scores where id = 3")
    market.settle()
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


def test_another_project_that_names_its_source_the_same(market: Shop, worker: Running, tmp_path: Path) -> None:
    """Connectors are named after their sources: this one is not its own, and what it knows of it is not told of it."""
    other = tmp_path / "other"
    shutil.copytree(market.repo.path, other)
    yaml = other / "feature_store.yaml"
    yaml.write_text(yaml.read_text().replace(f"project: {market.repo.project}", "project: other"))
    before = market.repo.command("status")["problems"]
    said = replace(market.repo, path=other, project="other").refused("apply")
    assert f"source {market.name}: connector: Kafka Connect has a connector of that name already" in said
    assert "Give the source another name" in said and "recover" not in said
    assert market.repo.command("status")["problems"] == before
    assert market.repo.apply()["captured_again"] == []


def test_a_feature_that_is_added(market: Shop, worker: Running) -> None:
    """At once: the resnapshot waits for workers that go by what was declared before."""
    features, topic = market.repo.path / "features.py", f"{market.name}.public.orders"
    amount = 'Field(name="amount", dtype=Float64)'
    without = features.read_text()
    added = without.replace(amount, f'{amount}, Field(name="order_id", dtype=Int64)', 1)
    features.write_text(added)
    assert market.repo.apply()["to_resnapshot"] == [topic]
    assert market.repo.apply()["to_resnapshot"] == []
    market.repo.command("resnapshot", topic)
    market.check()
    features.write_text(without)
    assert market.repo.apply()["to_resnapshot"] == []
    market.settle()
    features.write_text(added)
    assert market.repo.apply()["to_resnapshot"] == [topic]  # it has values of when it was taken out
    market.repo.command("resnapshot", topic)
    market.check()


def test_a_worker_elsewhere_that_has_not_started_anew(
    market: Shop, worker: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be read by it is not asked for."""
    monkeypatch.setattr(started_anew, "ANEW_SECONDS", 0.5)
    repo = open_repo(market.repo.path, market.repo.stack_folder)
    elsewhere = KafkaConsumer(market.repo.stack.kafka, repo.group, f"millrace.{repo.project}.elsewhere.7.before")
    elsewhere.subscribe([repo.control_topic], lambda _: None, lambda _: None, lambda _: None)

    def joined() -> bool:
        elsewhere.poll(0.1, 1)
        return bool(elsewhere.lag())

    waited(joined, "a member of the group")
    told = r"workers elsewhere\.7 \(host and process\) still go by what was applied before"
    with pytest.raises(started_anew.NotAnew, match=told):
        resnapshot(repo, [f"{market.name}.public.customers"], 5, print)
    with pytest.raises(started_anew.NotAnew, match=told):
        recover(repo, market.name, 5, print)
    elsewhere.close()
    assert market.repo.command("backfill", "--view", "customer_facts")["views"]["customer_facts"]["rows_added"] == 0


OTHER = """
grades = cdc_source("{source}.public.grades")
customer_grade = FeatureView(
    name="customer_grade",
    entities=[customer],
    source=grades,
    schema=[Field(name="id", dtype=Int64), Field(name="grade", dtype=Int64)],
)
"""


def grades(market: Shop) -> list[object]:
    """What is served of customers 1, 2 and 3."""
    read = market.repo.read("customer_grade", ["grade"], [{"id": 1}, {"id": 2}, {"id": 3}])
    return [values["grade"] for values in read]


def test_a_source_that_was_taken_out_and_is_put_back(market: Shop, worker: Running) -> None:
    """As operations.md tells to take one out. What was deleted meanwhile is found by the command that apply names."""
    name = f"{market.name}b"
    features, yaml = market.repo.path / "features.py", market.repo.path / "millrace.yaml"
    declared, settings = features.read_text(), yaml.read_text()
    with_views = declared + OTHER.format(source=name)
    with_source = settings.replace("sources:", f"sources:\n  {name}:\n    url: {market.database.dsn}\n")
    market.sql.execute("create table grades (id bigint primary key, grade bigint)")
    market.sql.execute("insert into grades values (1, 10), (2, 20)")
    contract = {"name": "public.grades", "expectations": [], "meta": {}}
    (market.repo.path / "contracts" / "public.grades.json").write_text(json.dumps(contract))
    features.write_text(with_views)
    yaml.write_text(with_source)
    assert market.repo.apply()["to_recover"] == []
    waited(lambda: grades(market) == [10, 20, None], "rows of the other source online")
    market.repo.drain()

    features.write_text(declared)
    market.repo.apply()
    connect = Connect(market.repo.stack.connect)
    assert connect.delete(name)
    connect.close()
    slot = {"name": default_slot(f"{market.repo.project}_{name}")}
    drop = (
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %(name)s and not active"
    )
    waited(lambda: market.sql.execute(drop, slot).fetchall(), "the slot free")
    yaml.write_text(settings)
    market.repo.apply()
    market.sql.execute("delete from grades where id = 1")
    market.sql.execute("insert into grades values (3, 30)")

    yaml.write_text(with_source)
    assert market.repo.refused("recover", name).endswith("run millrace apply")
    features.write_text(with_views)
    applied = market.repo.apply()
    assert (applied["to_recover"], applied["connectors"][name]) == ([name], "stopped")
    assert f"run millrace recover {name}" in " ".join(market.repo.command("status", code=1)["problems"])
    report = market.repo.command("recover", name)["tables"][f"{name}.public.grades"]
    assert (report["rows"], report["deleted"]) == (2, 1)
    assert grades(market) == [None, 20, 30]
    market.sql.execute("update grades set grade = 21 where id = 2")
    waited(lambda: grades(market) == [None, 21, 30], "a change after it")
    assert market.repo.command("status")["problems"] == []
    market.check()
