"""A feature repo with a mistake: `apply` says which file and which object, and what to write instead, ends with
exit code 1, and has changed nothing."""

import re
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from connectors.connect import Connect
from millrace import template
from millrace.cli import main
from millrace.stack.endpoints import Endpoints
from tests.integration.database import Database

FOOTPRINTS = """
    select count(*) from pg_publication union all select count(*) from pg_replication_slots
    where database = current_database() union all select count(*) from pg_class where relname like 'millrace_%'
    union all select count(*) from pg_class where relname in ('customers', 'orders') and relreplident <> 'd'
"""


@dataclass(frozen=True)
class Draft:
    """A starting repo with names of its own, to make mistakes in."""

    path: Path
    name: str
    features: Path
    stack: Endpoints
    database: Database

    def write(self, old: str, new: str, file: str | None = None) -> None:
        """Replace a text of features.py, or of another file."""
        path = self.path / file if file else self.features
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            connection.execute(statement)

    def footprints(self) -> list[object]:
        """What an apply would have left behind."""
        topics = AdminClient({"bootstrap.servers": self.stack.kafka}).list_topics(timeout=10).topics
        connect = Connect(self.stack.connect)
        state = connect.state(self.name)
        connect.close()
        with psycopg.connect(self.database.dsn) as connection:
            counts = [count for (count,) in connection.execute(FOOTPRINTS)]
        files = [*self.path.parent.glob("lake/*"), *self.path.parent.glob("registry*")]
        return [*(topic for topic in topics if topic.startswith(self.name)), *files, *filter(None, [state, *counts])]


@pytest.fixture
def draft(stack: Endpoints, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draft:
    name = f"shop{uuid.uuid4().hex[:8]}"
    path = tmp_path / "repo"
    template.write(path)
    for file in (path / "features.py", path / "millrace.yaml", path / "feature_store.yaml"):
        file.write_text(file.read_text().replace("shop", name))
    # Python keeps modules by their names, and these tests share a process.
    features = (path / "features.py").rename(path / f"{name}_features.py")
    (tmp_path / "lake").mkdir()
    variables = {
        **stack.environment(),
        "MILLRACE_LAKE": str(tmp_path / "lake"),
        "MILLRACE_REGISTRY": str(tmp_path / "registry.db"),
        f"MILLRACE__SOURCES__{name.upper()}__URL": database.dsn,
    }
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    made = Draft(path, name, features, stack, database)
    made.execute("drop schema public cascade; create schema public")
    made.execute((path / "schema.sql").read_text())
    return made


@pytest.fixture
def refused(draft: Draft, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Runs `millrace apply`, which must refuse; returns its error."""

    def run() -> str:
        options = ["--repo", str(draft.path), "--stack", str(draft.path.parent / "stack")]
        monkeypatch.setattr(sys, "argv", ["millrace", "apply", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        (error,) = re.findall(r"^error: (.*)", capsys.readouterr().err, re.MULTILINE | re.DOTALL)
        assert draft.footprints() == []
        return error.strip()

    return run


def line(draft: Draft, text: str) -> str:
    """Where a text stands, as errors say it."""
    number = draft.features.read_text().split(text)[0].count("\n") + 1
    return f"{draft.features.name}, line {number}: "


FACTS, LAST = "customer_facts = ", "last_order = "


def test_an_unknown_column(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write('Field(name="tier"', 'Field(name="teir"')
    expected = "view customer_facts: table public.customers has no column teir; did you mean tier?"
    assert refused() == line(draft, FACTS) + expected


def test_a_mistake_beside_a_module_that_is_not_in_utf_8(draft: Draft, refused: Callable[[], str]) -> None:
    latin = b"# -*- coding: latin-1 -*-\nname = '\xe9'\n"
    (draft.path / f"a_{draft.name}.py").write_bytes(latin)
    (draft.path / "notes.py").mkdir()
    draft.write('Field(name="tier"', 'Field(name="teir"')
    assert refused().startswith(line(draft, FACTS) + "view customer_facts: table public.customers has no column teir")


def test_a_project_of_another_name(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write("model = ", 'from feast import Project\n\nother = Project(name="other")\nmodel = ')
    assert refused() == (f'{draft.path}: its Project object does not suit feature_store.yaml; name it "{draft.name}"')


def test_an_unknown_column_of_the_event_time(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write('event_time="placed_at"', 'event_time="placed"')
    source = f"source {draft.name}.public.orders"
    expected = f"{source}: table public.orders has no column placed; did you mean placed_at?"
    assert refused() == line(draft, "orders = cdc") + expected


def test_a_missing_contract(draft: Draft, refused: Callable[[], str]) -> None:
    (draft.path / "contracts" / "public.orders.json").unlink()
    least = 'write the suite; {"name": "any", "expectations": []} takes every row'
    assert refused() == f"{draft.path}/contracts/public.orders.json: there is no such file; {least}"


def test_a_contract_over_a_column_that_is_not_there(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write('"amount"', '"amuont"', "contracts/public.orders.json")
    error = refused()
    assert error.startswith(f"{draft.path}/contracts/public.orders.json")
    assert "unknown column 'amuont'; did you mean 'amount'?" in error


def test_a_key_that_does_not_exist(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write('join_keys=["id"]', 'join_keys=["ident"]')
    error = refused()
    assert error.startswith(line(draft, FACTS) + "view customer_facts: table public.customers has no column ident; ")


def test_a_name_that_two_columns_would_have(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write('field_mapping={"customer_id": "id"}', 'field_mapping={"customer_id": "id", "order_id": "id"}')
    source = f"source {draft.name}.public.orders"
    expected = f"{source}: field_mapping renames customer_id and order_id to id; give each a name of its own"
    assert refused() == line(draft, "orders = cdc") + expected


def test_a_key_of_a_type_that_cannot_be_one(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write("ValueType.INT64", "ValueType.DOUBLE")
    for _ in range(2):
        draft.write('Field(name="id", dtype=Int64)', 'Field(name="id", dtype=Float64)')
    error = refused()
    assert error.startswith(line(draft, FACTS) + "view customer_facts: join key 'id' is of type DOUBLE")
    assert error.endswith("give its entity one of the types BYTES, STRING, INT32, INT64, UNIX_TIMESTAMP")


def test_a_key_of_two_types(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write("ValueType.INT64", "ValueType.STRING")
    error = refused()
    assert error.startswith(f"{draft.features.name}, line ")
    assert "Entity customer has type ValueType.STRING, which does not match the inferred type Int64" in error


def test_a_bad_key_in_the_settings(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write("partitions:", "partitons:", "millrace.yaml")
    key = f"sources.{draft.name}.partitons"
    assert refused() == f"{draft.path}/millrace.yaml: {key}: unknown key; did you mean partitions?"


def test_a_bad_key_in_feasts_settings(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write("connection_string", "conection_string", "feature_store.yaml")
    error = refused()
    assert error.startswith(f"{draft.path}/feature_store.yaml: Feast refuses it: ")
    assert "conection_string" in error


def test_a_key_that_is_for_another_store(draft: Draft, refused: Callable[[], str]) -> None:
    """Whose section ends with the password, which pydantic would show."""
    draft.write("  connection_string: ", "  key_ttl_seconds: 60\n  connection_string: ", "feature_store.yaml")
    draft.write("${MILLRACE_REDIS}", "redis.internal:6379,password=s3cr3t-Pa55", "feature_store.yaml")
    error = refused()
    assert error.startswith(f"{draft.path}/feature_store.yaml: Feast refuses it: ")
    assert "key_ttl_seconds would forget features" in error
    assert "s3cr3t" not in error


def test_keys_in_a_form_that_millrace_does_not_write(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write("entity_key_serialization_version: 3", "entity_key_serialization_version: 2", "feature_store.yaml")
    assert refused() == (
        f"{draft.path}/feature_store.yaml: entity_key_serialization_version is 2, and millrace writes the keys of 3: "
        "Feast would find no entity. Set it to 3"
    )


def test_a_variable_that_is_not_set(draft: Draft, refused: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    draft.write("${MILLRACE_POSTGRES}", "${SHOPS_DATABASE}", "millrace.yaml")
    monkeypatch.delenv(f"MILLRACE__SOURCES__{draft.name.upper()}__URL")
    key = f"sources.{draft.name}.url"
    assert refused().startswith(f"{draft.path}/millrace.yaml: {key} needs the environment variable SHOPS_DATABASE")


def test_an_unknown_source(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write(f'cdc_source("{draft.name}.public.customers")', f'cdc_source("{draft.name}x.public.customers")')
    source = f"source {draft.name}x.public.customers"
    expected = f"{source}: millrace.yaml has no source {draft.name}x; did you mean {draft.name}?"
    assert refused() == line(draft, "customers = cdc") + expected


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (
            "bigint generated always as (order_id * 2) stored",
            "it is generated, and PostgreSQL does not replicate it; judge ",
        ),
        ("polygon", "it has type polygon, which cannot be carried; take it out of the contract"),
    ],
)
def test_a_contract_over_a_column_that_is_not_carried(
    draft: Draft, refused: Callable[[], str], column: str, why: str
) -> None:
    draft.execute(f"alter table orders add column area {column}")
    draft.write('"amount"', '"area"', "contracts/public.orders.json")
    assert f"unknown column 'area': {why}" in refused()


def test_an_event_time_that_is_none(draft: Draft, refused: Callable[[], str]) -> None:
    draft.execute("alter table orders add column note text")
    draft.write('event_time="placed_at"', 'event_time="note"')
    assert refused().endswith("column public.orders.note (text) is not a date or a timestamp; name a column that is")


def test_an_unknown_table(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write(f'"{draft.name}.public.customers"', f'"{draft.name}.public.customer"')
    expected = f"source {draft.name}.public.customer: the database has no table public.customer; did you mean "
    assert refused().startswith(line(draft, "customers = cdc") + expected + "public.customers")


def test_two_tables_whose_topics_kafka_takes_for_one(draft: Draft, refused: Callable[[], str]) -> None:
    draft.execute("drop schema if exists public_eu cascade; create schema public_eu")
    draft.execute("alter table customers rename to eu_orders; alter table orders set schema public_eu")
    for old, new in (("public.customers", "public.eu_orders"), ("public.orders", "public_eu.orders")):
        draft.write(f"{draft.name}.{old}", f"{draft.name}.{new}")
        draft.write(old, new, f"contracts/{old}.json")
        (draft.path / f"contracts/{old}.json").rename(draft.path / f"contracts/{new}.json")
    one, other = f"{draft.name}.public_eu.orders", f"{draft.name}.public.eu_orders"
    assert refused().startswith(f"topic {one}: Kafka does not have it beside topic {other}, whose name differs in '.'")


@pytest.mark.parametrize(
    ("column", "dtype", "problem"),
    [
        ("polygon", "String", "column public.customers.area has type polygon, which cannot be carried; leave it out"),
        ("numeric(5,2)[]", "Float64", "column public.customers.area has type numeric(5,2)[], which cannot be carried"),
        ("bytea", "String", "column public.customers.area (bytea) cannot be carried as string"),
        (
            "text[]",
            "String",
            "column public.customers.area (text[]) cannot be carried as string; declare a type that holds "
            "list<item: string>, such as Array(String)",
        ),
        (
            "text",
            "Int64",
            "column public.customers.area (text) cannot be carried as int64; declare a type that holds string, such as "
            "String",
        ),
        ("double precision", "Int64", "column public.customers.area (double precision) cannot be carried as int64"),
        ("bigint", "UnixTimestamp", "column public.customers.area (bigint) cannot be carried as timestamp"),
        ("bigint generated always as (id * 2) stored", "Int64", "column public.customers.area is generated"),
        ("text", "Map", "field area: MAP cannot be carried; use a scalar, an array or a timestamp"),
    ],
)
def test_a_type_that_cannot_be_carried(
    draft: Draft, refused: Callable[[], str], column: str, dtype: str, problem: str
) -> None:
    draft.execute(f"alter table customers add column area {column}")
    draft.write("Int64, String", "Int64, Map, String, UnixTimestamp")
    draft.write('Field(name="tier", dtype=String)', f'Field(name="area", dtype={dtype})')
    assert refused().startswith(line(draft, FACTS) + f"view customer_facts: {problem}")


def test_two_views_of_one_name(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write('name="last_order"', 'name="Customer_Facts"')
    expected = "view Customer_Facts: there is another view named customer_facts; give it another name"
    assert refused() == line(draft, LAST) + expected


def test_two_sources_of_one_name(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write("# A state view", f'again = cdc_source("{draft.name}.public.orders")\n# A state view')
    source = f"source {draft.name}.public.orders"
    assert (
        refused()
        == line(draft, "orders = cdc")
        + f"{source}: there is another source named {draft.name}.public.orders; give it another name"
    )


def test_two_features_in_one_field_of_redis(draft: Draft, refused: Callable[[], str]) -> None:
    one, other = "c117254", "c148150"  # murmur3_32 of "customer_facts:<name>" is the same
    draft.execute(f"alter table customers add column {one} text, add column {other} text")
    draft.write(
        'Field(name="tier", dtype=String)', f'Field(name="{one}", dtype=String), Field(name="{other}", dtype=String)'
    )
    error = refused()
    assert f"'customer_facts:{one}' and 'customer_facts:{other}' have the same field" in error
    assert error.endswith("rename one of the two")


def with_vector(draft: Draft, length: int) -> None:
    draft.write("import Float64", "import Array, Float32, Float64")
    vector = f'vector_index=True, vector_length={length}, tags={{"embeds": "name"}}'
    draft.write('Field(name="credit", dtype=Float64)', f'Field(name="meaning", dtype=Array(Float32), {vector})')


def test_a_vector_without_a_store(draft: Draft, refused: Callable[[], str]) -> None:
    with_vector(draft, 256)
    draft.write("  vectors:", "  # vectors:", "feature_store.yaml")
    expected = "view customer_facts: it has a vector field, and feature_store.yaml names no vector store"
    assert refused().startswith(line(draft, FACTS) + expected)


def test_a_name_that_a_search_answers(draft: Draft, refused: Callable[[], str]) -> None:
    with_vector(draft, 256)
    draft.execute("alter table customers add distance text")
    draft.write('Field(name="tier"', 'Field(name="distance"')
    assert "distance is what a search of its vectors answers" in refused()


def test_a_vector_of_another_length_than_the_models(draft: Draft, refused: Callable[[], str]) -> None:
    with_vector(draft, 255)
    error = refused()
    assert error.startswith(line(draft, FACTS) + "view customer_facts: vector field meaning has length 255, and ")
    assert "gives 256; declare vector_length=256" in error


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("feature = Fild()", "NameError: name 'Fild' is not defined"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("feature = (", "SyntaxError: '(' was never closed"),
        ('feature = Entity(name="x", join_keys=["a", "b"])', "ValueError: An entity may only have a single join key"),
        ("raise SystemExit(3)", "SystemExit: 3; take out what ends the process"),
        ('feature = cdc_source("orders")', "ValueError: cdc_source('orders'): write <source>.<schema>.<table>"),
    ],
)
def test_a_python_error(draft: Draft, refused: Callable[[], str], code: str, error: str) -> None:
    draft.write("model = ", f"{code}\nmodel = ")
    assert refused().startswith(line(draft, code) + error)


def test_a_table_without_a_primary_key(draft: Draft, refused: Callable[[], str]) -> None:
    draft.execute("alter table orders drop constraint orders_pkey")
    error = refused()
    assert error.startswith(f"source {draft.name}: primary key: table public.orders has no primary key")
    assert "ALTER TABLE public.orders ADD PRIMARY KEY" in error


@pytest.mark.parametrize("kind", ["interval", "span"])
def test_an_interval_in_a_primary_key(draft: Draft, refused: Callable[[], str], kind: str) -> None:
    draft.execute("create domain span as interval")
    draft.execute(f"alter table orders drop constraint orders_pkey, add column term {kind} not null default '1 day'")
    draft.execute("alter table orders add primary key (order_id, term)")
    told = f"term, of the primary key of public.orders, is {kind}, an interval, which PostgreSQL and Debezium spell"
    assert refused().startswith(line(draft, LAST) + f"view last_order: {told}")


def test_a_file_with_the_name_of_a_package(draft: Draft, refused: Callable[[], str]) -> None:
    draft.features.rename(draft.path / "validation.py")
    assert refused() == (
        "validation.py: Feast imports it as validation, which is millrace's own package validation; rename it"
    )


def test_an_on_demand_function_that_uses_what_stands_beside_it(draft: Draft, refused: Callable[[], str]) -> None:
    view = """
import math
from feast.on_demand_feature_view import on_demand_feature_view


@on_demand_feature_view(sources=[last_order], schema=[Field(name="root", dtype=Float64)], mode="python")
def amount_root(rows):
    return {"root": [math.sqrt(amount) for amount in rows["amount"]]}


model = """
    draft.write("model = ", view)
    told = "view amount_root: its function uses math of its file, and Feast keeps of an on-demand view the function's"
    assert refused().startswith(line(draft, "def amount_root") + told)


ON_DEMAND = """
from feast.on_demand_feature_view import on_demand_feature_view


@on_demand_feature_view(sources=[last_order], schema=[Field(name="root", dtype=Float64)], mode="python")
def amount_root(rows):
    return {BODY}


model = """


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            '{"root": list(np.sqrt(rows["amount"]))}',
            "its function raised NameError: name 'np' is not defined; write import numpy as np in its file",
        ),
        (
            '{"root": [amount ** 0.5 for amount in rows["amuont"]]}',
            "its function raised KeyError: 'amuont', tried by Feast on made-up values; mend the function",
        ),
        ('{"roots": rows["amount"]}', "Feast refuses it: Explicitly specified features "),
    ],
)
def test_an_on_demand_function_that_feast_cannot_try(
    draft: Draft, refused: Callable[[], str], body: str, told: str
) -> None:
    draft.write("model = ", ON_DEMAND.replace("{BODY}", body))
    assert refused().startswith(line(draft, "def amount_root") + f"view amount_root: {told}")


COMPUTED = """
from feast.stream_feature_view import stream_feature_view


@stream_feature_view(
    entities=[customer],
    source=customers,
    mode="pandas",
    ttl=timedelta(days=30),
    schema=[Field(name="id", dtype=Int64), Field(name="limit", dtype=Float64)],
)
def limits(df):
    df["limit"] = df["crdit"].astype(float) * 10
    return df


model = """


@pytest.mark.parametrize("rows", ["each of the 2 rows", "made-up rows"])
def test_a_function_that_reads_a_column_that_is_not_there(draft: Draft, refused: Callable[[], str], rows: str) -> None:
    draft.write("model = ", COMPUTED)
    if rows == "made-up rows":
        draft.execute("truncate customers, orders")
    error = refused()
    assert error.startswith(
        line(draft, "def limits") + f"view limits: its function fails on {rows} of public.customers"
    )
    assert error.endswith("raised KeyError: 'crdit'; the table has no column crdit: did you mean credit?")


def test_columns_that_the_lake_cannot_tell_apart(draft: Draft, refused: Callable[[], str]) -> None:
    draft.execute('alter table orders add column "Amount" text')
    error = refused()
    assert error.startswith(f"table changes/{draft.name}.public.orders: the lake cannot tell the columns amount and ")
    assert "rename one" in error


def test_features_that_the_lake_cannot_tell_apart(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write('field_mapping={"customer_id": "id"}', 'field_mapping={"customer_id": "id", "order_id": "Amount"}')
    draft.write(
        'Field(name="amount", dtype=Float64)', 'Field(name="amount", dtype=Float64), Field(name="Amount", dtype=Int64)'
    )
    assert "table features/last_order: the lake cannot tell the columns amount and Amount apart" in refused()


def test_a_connector_property_that_debezium_refuses(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write("    partitions:", "    connector: {snapshot.mode: sometimes}\n    partitions:", "millrace.yaml")
    assert "snapshot.mode" in refused()


def test_a_connector_property_that_changes_the_form_of_values(draft: Draft, refused: Callable[[], str]) -> None:
    draft.write("    partitions:", "    connector: {time.precision.mode: adaptive}\n    partitions:", "millrace.yaml")
    assert f"time.precision.mode of source {draft.name} cannot be overridden" in refused()


def excluding(draft: Draft, pattern: str) -> None:
    connector = f"    connector: {{column.exclude.list: '{pattern}'}}\n    partitions:"
    draft.write("    partitions:", connector, "millrace.yaml")


def test_a_view_over_an_excluded_column(draft: Draft, refused: Callable[[], str]) -> None:
    excluding(draft, r"public\.customers\.(tier|x)")
    told = f"column public.customers.tier is left out of the changes by column.exclude.list of source {draft.name}"
    assert refused().startswith(line(draft, FACTS) + f"view customer_facts: {told}; take it out of that list")


def test_a_contract_over_an_excluded_column(draft: Draft, refused: Callable[[], str]) -> None:
    draft.execute("alter table orders add column secret int")
    draft.write('"amount"', '"secret"', "contracts/public.orders.json")
    excluding(draft, "PUBLIC.ORDERS.SECRET")
    error = refused()
    assert error.startswith(f"{draft.path}/contracts/public.orders.json, expectations[")
    assert f"unknown column 'secret': column.exclude.list of source {draft.name} leaves it out" in error


def test_excluded_columns_in_an_expression_that_only_java_reads(draft: Draft, refused: Callable[[], str]) -> None:
    excluding(draft, r"public\.customers\.\p{Lower}+")
    place = f"{draft.path}/millrace.yaml: sources.{draft.name}: column.exclude.list of source {draft.name}: "
    assert refused().startswith(place)


def test_a_lake_that_is_not_there(draft: Draft, refused: Callable[[], str]) -> None:
    lake = draft.path.parent / "lake"
    lake.rmdir()
    assert refused() == f"the lake is unavailable: the folder {lake} does not exist: create it, or mount it"


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1,password=s3cr3t-Pa55", "Redis is unavailable: 127.0.0.1:1: "),
        ("{redis},username=nobody,password=s3cr3t-Pa55", "Redis at {redis} refuses: "),
    ],
)
def test_a_redis_that_does_not_answer(
    draft: Draft, refused: Callable[[], str], monkeypatch: pytest.MonkeyPatch, address: str, told: str
) -> None:
    redis = draft.stack.environment()["MILLRACE_REDIS"]
    monkeypatch.setenv("MILLRACE_REDIS", address.format(redis=redis))
    error = refused()
    assert error.startswith(told.format(redis=redis.partition(",")[0])) and "s3cr3t" not in error
    assert error.endswith(f"; start it, or mend online_store.connection_string in {draft.path}/feature_store.yaml")


def test_a_database_that_does_not_answer(
    draft: Draft, refused: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"MILLRACE__SOURCES__{draft.name.upper()}__URL", "postgresql://u:secret@127.0.0.1:1/x")
    error = refused()
    assert error.startswith(f"source {draft.name} is unavailable")
    assert "secret" not in error
