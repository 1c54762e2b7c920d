"""Personal data is not shown: not in the reasons of letters, not by `millrace letters`, not by a worker's log."""

import json
import logging
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from feast import Entity, FeatureStore, FeatureView, Field, ValueType
from feast.stream_feature_view import stream_feature_view
from feast.types import Array, Float32, Float64, Int64, String

import millrace.wiring
from millrace.cli import millrace as command_line
from millrace.declare import cdc_source
from stores.personal import personal_features
from streams.changes import changes_schema
from streams.declarations import captured_views, personal_columns
from streams.decode import decode_records
from streams.letters import DeadLetters, Rejection
from streams.memory import MemoryBroker, MemoryProducer, MemoryTopics
from streams.personal import HIDDEN, NOTHING, PersonalColumns
from streams.pipeline import Flow, take
from streams.windows import Windows
from tests.envelopes import ORDERS, TOPIC, envelope, key, records, row
from tests.unit.command_repo import command_repo
from tests.worker_platform import Platform
from validation.contract import Contract, load
from validation.errors import EvaluationFailed
from validation.rule import Outcome

SECRET = "annabel@example.com"
PERSONAL = {"personal": "true"}
CUSTOMER = PersonalColumns(frozenset({"customer"}))


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (f"expect_x on customer: '{SECRET}' (regex ^a)", f"expect_x on customer: {HIDDEN}"),
        (f"expect_x on amount, customer: 3, '{SECRET}'", f"expect_x on amount, customer: {HIDDEN}"),
        ("expect_x on amount: -3 (min 0)", "expect_x on amount: -3 (min 0)"),
        (
            f"expect_x on amount: -3 (cannot be evaluated: invalid: '{SECRET}')",
            f"expect_x on amount: -3 (cannot be evaluated: {HIDDEN})",
        ),
        (f"expect_x on amount: -3 (row_condition='customer == \"{SECRET}\"')", f"expect_x on amount: {HIDDEN}"),
        (f"column customer (text): {SECRET!r}: too long", f"column customer (text): {HIDDEN}"),
        (f"column customer (varchar(20)[]): {SECRET!r}: too: long", f"column customer (varchar(20)[]): {HIDDEN}"),
        ("column amount (double precision): 'x': no number", "column amount (double precision): 'x': no number"),
        (f"view v: its function raised KeyError: '{SECRET}'", f"view v: {HIDDEN}"),
        ("view v: the event time seen is null", "view v: the event time seen is null"),
        (f"view v: the event time {SECRET} is late", f"view v: {HIDDEN}"),
        (f"unknown operation '{SECRET}'", f"unknown operation ...: {HIDDEN}"),
        ("not JSON", "not JSON"),
    ],
)
def test_reasons_keep_their_kind_and_lose_the_values(reason: str, shown: str) -> None:
    assert CUSTOMER.reason(reason) == shown
    assert NOTHING.reason(reason) == reason
    assert SECRET not in PersonalColumns(every=True).reason(reason)


@pytest.mark.parametrize(
    ("column", "reason", "shown"),
    [
        ("e: mail", f"expect_x on e: mail: '{SECRET}' (regex='a')", f"expect_x on e: {HIDDEN}"),
        ("mail, private", f"expect_x on mail, private: '{SECRET}'", f"expect_x on mail, private: {HIDDEN}"),
        ("mail, private", f"expect_x on a, mail, private: 1, '{SECRET}'", f"expect_x on a, mail, private: {HIDDEN}"),
        ("mail", f"expect_x on a: b, mail: 3, '{SECRET}'", f"expect_x on a: {HIDDEN}"),
        ("mail", "expect_x on email: 'b'", "expect_x on email: 'b'"),
        ("e: mail", f"column e: mail (text): '{SECRET}': too long", f"column e: {HIDDEN}"),
        ("mail (private)", f"column mail (private): '{SECRET}': too long", f"column mail (private): {HIDDEN}"),
        ("on mail", f"column on mail (text): '{SECRET}': too long", f"column on mail (text): {HIDDEN}"),
        ("mail", "column e: mail (text): 'b'", "column e: mail (text): 'b'"),
    ],
)
def test_a_name_may_hold_what_stands_behind_one(column: str, reason: str, shown: str) -> None:
    assert PersonalColumns(frozenset({column})).reason(reason) == shown


def test_a_record_is_shown_without_the_values_of_its_personal_columns() -> None:
    value = envelope("u", row(1, SECRET), lsn=5, before=row(1, SECRET))
    shown = json.loads(CUSTOMER.value(value))
    assert shown["after"] == {**row(1), "customer": HIDDEN} and shown["before"]["customer"] == HIDDEN
    assert shown["op"] == "u" and shown["source"]["lsn"] == 5
    assert NOTHING.value(value) == value.decode()
    assert CUSTOMER.key(key(1)) == '{"id":1}' and PersonalColumns(every=True).key(key(1)) == f'{{"id":"{HIDDEN}"}}'
    for odd in (SECRET.encode(), json.dumps([SECRET]).encode(), json.dumps({"after": SECRET, SECRET: 1}).encode()):
        assert "annabel@example.com" not in CUSTOMER.value(odd).replace(f'"{SECRET}":', "")
    assert (CUSTOMER.value(None), CUSTOMER.key(None)) == ("", "")


def people(*, whole: bool = False) -> list[Any]:
    """A feature repo's objects over the table of `tests.envelopes`."""
    source = cdc_source(TOPIC, field_mapping={"customer": "email"})
    order = Entity(name="order", join_keys=["id"], value_type=ValueType.INT64)
    fields = [Field(name="id", dtype=Int64), Field(name="amount", dtype=Float64)]
    mail = Field(name="email", dtype=String, tags={} if whole else PERSONAL)
    view = FeatureView(
        name="orders", entities=[order], source=source, schema=[*fields, mail], tags=PERSONAL if whole else {}
    )
    return [order, source, view]


def test_the_columns_that_personal_features_read() -> None:
    order, source, view = people()
    assert personal_columns(captured_views([view], [order], [])) == PersonalColumns(frozenset({"customer"}))
    whole = people(whole=True)[2]
    assert personal_columns(captured_views([whole], [order], [])).columns == {"id", "amount", "customer"}

    vector = Field(
        name="about",
        dtype=Array(Float32),
        vector_index=True,
        vector_length=4,
        tags={"embeds": "customer, area", **PERSONAL},
    )
    search = FeatureView(name="search", entities=[order], source=source, schema=[Field(name="id", dtype=Int64), vector])
    assert personal_columns(captured_views([search], [order], [])).columns == {"customer", "area"}

    @stream_feature_view(
        entities=[order],
        mode="pandas",
        ttl=timedelta(0),
        schema=[Field(name="id", dtype=Int64), Field(name="length", dtype=Int64, tags=PERSONAL)],
        source=source,
    )
    def computed(df: pd.DataFrame) -> pd.DataFrame:
        return df

    assert personal_columns(captured_views([computed], [order], [])).every


def test_a_worker_writes_no_personal_data_into_letters_and_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    platform = Platform(tmp_path)
    rule = {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "customer", "regex": "^[a-z]+$"}}
    contract = tmp_path / "public.orders.json"
    contract.write_text(json.dumps({"name": "orders", "expectations": [rule], "meta": {}}))
    platform.flow = Flow(ORDERS, load(contract, changes_schema(ORDERS)), platform.flow.views, CUSTOMER)
    platform.produce(*((key(i), envelope("c", row(i, SECRET), lsn=i)) for i in range(1, 61)))
    with caplog.at_level(logging.DEBUG):
        platform.run(until=lambda: platform.worker is not None and platform.worker.state()["paused"], poll_records=60)
    assert "is paused" in caplog.text and SECRET not in caplog.text
    letters = platform.letters()
    assert letters[0].reasons == (f"expect_column_values_to_match_regex on customer: {HIDDEN}",)
    assert all(SECRET.encode() not in header for letter in letters for header in letter.headers.values())
    assert SECRET.encode() in letters[0].value  # the record itself is kept, to be replayed


CONDITION = 'customer.str.split("@").str[0].astype("int") > 5'
"""On what is no number, pandas quotes it."""


def conditional(folder: Path, expectation: str, **kwargs: Any) -> Contract:
    contract = folder / "public.orders.json"
    rule = {"type": expectation, "kwargs": {**kwargs, "row_condition": CONDITION, "condition_parser": "pandas"}}
    contract.write_text(json.dumps({"name": "orders", "expectations": [rule], "meta": {}}))
    return load(contract, changes_schema(ORDERS))


def test_a_condition_on_personal_data_does_not_quote_it(tmp_path: Path) -> None:
    made = conditional(tmp_path, "expect_column_values_to_not_be_null", column="amount")
    given = records((key(1), envelope("c", row(1, SECRET), lsn=1)))
    for personal in (NOTHING, CUSTOMER):
        (rejection,) = personal.rejections(take(given, Flow(ORDERS, made, (), personal), 10_000).rejections)
        assert ("annabel" in rejection.reasons[0]) is (personal is NOTHING)


def test_a_failed_evaluation_does_not_quote_personal_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = conditional(tmp_path, "expect_column_values_to_be_unique", column="amount")
    given = records((key(1), envelope("c", row(1, SECRET), lsn=1)))

    def fails(rules: Any, table: Any) -> Any:
        raise EvaluationFailed(rules[0], f"invalid literal: {SECRET!r}")

    monkeypatch.setattr("validation.gx.failing", fails)
    for personal in (NOTHING, CUSTOMER):
        with pytest.raises(EvaluationFailed, match="cannot evaluate expect_column_values_to_be_unique on amount") as e:
            take(given, Flow(ORDERS, made, (), personal), 10_000)
        assert (SECRET in "".join(traceback.format_exception(e.value))) is (personal is NOTHING)


def test_data_docs_do_not_quote_personal_data_of_a_condition(tmp_path: Path) -> None:
    made = conditional(tmp_path, "expect_column_values_to_not_be_null", column="amount")
    rows = take(records((key(1), envelope("c", row(1, SECRET), lsn=1))), Flow(ORDERS, made, ()), 10_000)
    assert not rows.accepted.changes.rows.num_rows
    table = decode_records(rows.records, ORDERS, (), 10_000).changes.rows
    for personal in (NOTHING, CUSTOMER):
        docs = tmp_path / ("hidden" if personal else "shown")
        report = made.validate(table, docs, personal.has)
        told = repr(report) + "".join(page.read_text() for page in docs.rglob("*.html"))
        assert report.outcomes[0].error and ("annabel" in told) is (personal is NOTHING)


def test_the_same_worker_without_the_tag_shows_the_value(tmp_path: Path) -> None:
    """What the test above would miss if nothing had a value in it."""
    rule = {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "customer", "regex": "^[a-z]+$"}}
    contract = tmp_path / "public.orders.json"
    contract.write_text(json.dumps({"name": "orders", "expectations": [rule], "meta": {}}))
    flow = Flow(ORDERS, load(contract, changes_schema(ORDERS)), ())
    outcome = take(records((key(1), envelope("c", row(1, SECRET), lsn=1))), flow, 10_000)
    assert SECRET in outcome.rejections[0].reasons[0]


def test_what_a_window_observed_of_personal_data_is_hidden(tmp_path: Path) -> None:
    expectation = {"type": "expect_column_max_to_be_between", "kwargs": {"column": "amount", "max_value": 1}}
    contract = tmp_path / "public.orders.json"
    contract.write_text(json.dumps({"name": "orders", "expectations": [expectation], "meta": {}}))
    loaded = load(contract, changes_schema(ORDERS))
    (rule,) = loaded.table_rules
    outcome = Outcome(rule, False, 10, 99.5, None)

    class Finished:
        def get(self) -> list[Outcome]:
            return [outcome]

    seen = []
    for personal in (NOTHING, PersonalColumns(frozenset({"amount"}))):
        windows = Windows({TOPIC: Flow(ORDERS, loaded, (), personal)}, 10, 60.0)
        windows._report(TOPIC, Finished())  # type: ignore[arg-type]  # only its result is asked for
        seen.append(windows.results[TOPIC][0]["observed"])
    assert seen == [99.5, HIDDEN]


def test_a_window_does_not_quote_personal_data_of_a_condition(tmp_path: Path) -> None:
    made = conditional(tmp_path, "expect_column_max_to_be_between", column="amount", max_value=1)
    (rule,) = made.table_rules
    outcome = Outcome(rule, False, 10, error=f"invalid literal: {SECRET!r}")

    class Finished:
        def get(self) -> list[Outcome]:
            return [outcome]

    seen = []
    for personal in (NOTHING, CUSTOMER):
        windows = Windows({TOPIC: Flow(ORDERS, made, (), personal)}, 10, 60.0)
        windows._report(TOPIC, Finished())  # type: ignore[arg-type]  # only its result is asked for
        seen.append(windows.results[TOPIC][0]["error"])
    assert seen == [outcome.error, HIDDEN]


def test_an_evaluation_that_breaks_does_not_quote_personal_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = conditional(tmp_path, "expect_column_max_to_be_between", column="amount", max_value=1)

    class Broken:
        def get(self) -> list[Outcome]:
            raise ValueError(SECRET)

    windows = Windows({TOPIC: Flow(ORDERS, made, (), CUSTOMER)}, 10, 60.0)
    windows._report(TOPIC, Broken())  # type: ignore[arg-type]  # only its result is asked for
    assert "ValueError" in caplog.text and SECRET not in caplog.text


Letters = Callable[..., Result]


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Letters:
    """`millrace letters` over a broker in memory, and a registry in which one column is personal."""
    command_repo(tmp_path)
    store = FeatureStore(repo_path=str(tmp_path))
    store.apply(people())
    assert personal_features(store.list_feature_views()) == {"orders": {"email"}}
    broker = MemoryBroker()
    written = DeadLetters(MemoryProducer(broker), "shop.letters")
    bad = records((key(1), envelope("c", row(1, SECRET), lsn=1)))
    written.send(bad, [Rejection(0, "contract", (f"expect_x on customer: {SECRET!r}",))], "v1")
    written.send(replace(bad, topic="shop.public.other"), [Rejection(0, "contract", ("expect_x on a: 7",))], "v1")
    written.flush()
    monkeypatch.setattr(millrace.wiring, "topics", lambda repo: MemoryTopics(broker))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(command_line, ["letters", *arguments, "--repo", str(tmp_path)])

    return run


def test_listing_and_showing_hide_personal_data(letters: Letters) -> None:
    for result in (letters("list"), letters("list", "--json"), letters("show", "0"), letters("show", "0", "--json")):
        assert result.exit_code == 0, result.output
        assert SECRET not in result.output and HIDDEN in result.output
    assert "expect_x on a: 7" in letters("list").output
    assert letters("show", "1").output.count(SECRET) == 1  # a table without personal features
    assert json.loads(letters("list", "--reason", "annabel", "--json").stdout)["count"] == 0


def test_original_bytes_have_to_be_asked_for(letters: Letters, tmp_path: Path) -> None:
    refused = letters("show", "0", "--raw")
    assert refused.exit_code == 1 and "say --personal" in refused.output and SECRET not in refused.output
    assert SECRET in letters("show", "0", "--raw", "--personal").output
    file = tmp_path / "letters.jsonl"
    refused = letters("export", str(file))
    assert refused.exit_code == 1 and "say --personal" in refused.output and not file.exists()
    assert letters("export", str(file), "--table", "shop.public.other").exit_code == 0
    assert letters("export", str(tmp_path / "all.jsonl"), "--personal").exit_code == 0
