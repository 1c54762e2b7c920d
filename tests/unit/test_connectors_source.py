"""Sources: what is refused, and how names are written as SQL."""

import pytest

from connectors.source import Source, default_slot, quoted, split

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
        ({"url": "postgresql:///shop"}, "USER:PASSWORD@HOST"),
    ],
)
def test_what_cannot_be_used_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(**fields)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_way_to_write_the_scheme(scheme: str) -> None:
    engine = source(url=URL.replace("postgresql", scheme)).engine()
    assert engine.url.drivername == "postgresql+psycopg"


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
