"""Sources: what is refused, and how names are written as SQL."""

import pytest
from sqlalchemy import Engine, event

from connectors.source import Source, SourceUnavailable, default_signal_table, default_slot, quoted, split

URL = "postgresql://user:s3cret@db.example:5433/shop?sslmode=require"


def source(**fields: object) -> Source:
    values = {"name": "shop", "url": URL, "slot": "shop", "publication": "shop", **fields}
    return Source(**values)  # type: ignore[arg-type]  # wrong values are what is tested


def test_the_password_is_never_shown() -> None:
    assert "s3cret" not in repr(source())
    with pytest.raises(ValueError, match=r"postgresql://USER.*not mysql://user:\*\*\*@") as caught:
        source(url="mysql://user:s3cret@db/shop")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a.b"}, "letters, digits"),
        ({"name": ""}, "letters, digits"),
        ({"slot": "Shop"}, "lower-case"),
        ({"slot": "x" * 64}, "at most 63"),
        ({"partitions": 0}, "1 or more"),
        ({"heartbeat_table": "beat"}, "schema.table"),
        ({"url": "nonsense"}, "not a URL"),
        ({"overrides": {"column.exclude.list": r"public\.a\.\p{L}+"}}, r"cannot be read here: bad escape \\p"),
        ({"overrides": {"column.exclude.list": "a,public.a.[a-z&&[^b]]"}}, r"a-z&&.*cannot be read here"),
        ({"overrides": {"column.exclude.list": "public.a.b{1,2}, public.a.(c"}}, r"'public.a.\(c' cannot be read here"),
        ({"url": "postgresql:///shop"}, "USER:PASSWORD@HOST"),
    ],
)
def test_what_cannot_be_used_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(**fields)


@pytest.mark.parametrize("url", ["postgresql://shop:s3cr3t", "postgresql://h/shop?user=shop&password=s3cr3t"])
def test_a_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="url of source shop: ") as caught:
        source(url=url)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("patterns", "excluded"),
    [  # as Debezium 3.6.3's own filter answers (io.debezium.relational.Tables.ColumnNameFilterFactory)
        (r"public\.orders\.amount", ["amount", "Amount"]),
        ("PUBLIC.orders.AMOUNT", ["amount", "Amount"]),
        ("amount", []),
        (r".*\.amount", ["amount", "Amount"]),
        (r"public.orders.\w+mount", ["amount", "Amount"]),
        ("public.orders.Ämount", []),
        (r"public.orders.a\,b", ["a,b"]),
        (" public.orders.a b , x", ["a b"]),
        (r"public\.orders\.(a.*|b)$", ["amount", "Amount", "amount2", "a,b", "a b"]),
        ("^public.orders.amount$,, public.orders.amount2", ["amount", "Amount", "amount2"]),
        (r"(?-i:public\.orders\.(?:amount))", ["amount"]),
        ("", []),
    ],
)
def test_columns_are_excluded_as_debezium_excludes_them(patterns: str, excluded: list[str]) -> None:
    with_list = source(overrides={"column.exclude.list": patterns})
    names = ["amount", "Amount", "amount2", "ämount", "a,b", "a b"]
    assert [name for name in names if with_list.excludes(f"public.orders.{name}")] == excluded
    assert not any(source().excludes(f"public.orders.{name}") for name in names)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_way_to_write_the_scheme(scheme: str) -> None:
    engine = source(url=URL.replace("postgresql", scheme)).engine()
    assert engine.url.drivername == "postgresql+psycopg"


def test_an_engine_is_disposed_of_whatever_became_of_the_block() -> None:
    disposed: list[Engine] = []
    with pytest.raises(SourceUnavailable), source().opened() as engine:
        event.listen(engine, "engine_disposed", disposed.append)
        raise SourceUnavailable
    assert disposed == [engine]


def test_default_slot() -> None:
    assert default_slot("Nyc-2013") == "millrace_nyc_2013"
    assert len(default_slot("x" * 100)) == 63
    assert source(slot=default_slot("Nyc-2013")).slot == "millrace_nyc_2013"


def test_names_as_sql() -> None:
    assert quoted("public.flights") == "public.flights"
    assert quoted('public.Mixed "q" 100%') == 'public."Mixed ""q"" 100%"'
    assert quoted("public.order") == 'public."order"'
    assert split("public.a.b") == ("public", "a.b")
    with pytest.raises(ValueError, match=r"public\.flights"):
        split("flights")


def test_each_slot_has_a_signal_table_of_its_own() -> None:
    assert default_signal_table("millrace_shop_orders") == "public.millrace_shop_orders_signal"
    long = [default_signal_table("s" * 62 + last) for last in "ab"]
    assert long[0] != long[1] and all(len(name.removeprefix("public.")) <= 63 for name in long)
