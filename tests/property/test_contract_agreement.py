"""Compiled rules give Great Expectations' own verdicts, row by row."""

import math
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from validation import gx
from validation.bounds import parse_bound
from validation.compiled import compile_rule
from validation.errors import RuleError
from validation.regex import Pattern
from validation.rule import Rule

UTC_TIME = pa.timestamp("us", tz="UTC")
WIDE = 2**53

# PostgreSQL has no zero in a text, and the pandas below GX takes "\0" and "" for the same.
TEXTS = [
    "", "a", "A", "b", "ab", "aB1", "a\n", "\n", "\n\n", "a\nb", " ", "\x1c", "\x85", "\x01", "é", "e\u0301",
    "\u0661", "ß", "ſ", "\u212a", "k", "ı", "i", "\U0001f600", "漢字", "nan", "None", "0", "-0.0", "N123UA",
    "a.b@c.d", "x" * 40,
]  # fmt: skip
PATTERNS = [
    "", "a", "^a$", "a$", r"a\Z", r"\Aa", "^$", "^", "$", ".", "^.$", "^..$", "(?s)^.$", r"\d", r"^\d+$", r"\D", r"\w",
    r"^\w+$", r"\W", r"\s", r"^\s$", r"\S", r"[^\s]", r"[\d\s]", "[a-c]", "[^a-c]", "[^a]", r"[\x00-\x20]", "(?i)a",
    "(?i)K", "(?i)ſ", "(?i)I", "(?i)[a-k]", "(?i)[^k]", "(?m)^a$", "(?x) a  b ", "a|b$", "^(a|b)*$", "(a$)|1", "a{2,}",
    "a?", "a*?b", "(?=a)", "(?!a)", "(?<=a)b", r"(a)\1", r"\ba\b", r"\B", r"^N[0-9]{1,5}[A-Z]{0,2}$", "é", "[é]", "漢",
    r"^\S+@\S+\.\S+$", r"a\n$", "[]a]", "[a-]", r"\.", "^x{40}$", r"(?a)\w", "x{1001}", "a$b", "(?:a$)?", "(?P<n>a)",
]  # fmt: skip
FLOATS = [0.0, -0.0, 0.1, 0.5, 1.0, -1.0, 1.1, 1.5, 99.99, 1e300, 5e-324, 2.0**53, 2.0**63, math.inf, -math.inf]
CENTS = [Decimal(text) for text in ("0.00", "0.10", "0.50", "1.00", "1.10", "-1.00", "99.99", "99999999.99")]
FINE = [Decimal(text) for text in ("0.1", "0.10000000000000000001", "0.5", "1", "-1.1", "1e7", "123456789.1")]
DATES = [date(1, 1, 1), date(1969, 12, 31), date(2013, 2, 12), date(2013, 2, 13), date(9999, 12, 31)]
TIMES = [
    datetime(1, 1, 1), datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(2013, 2, 12),
    datetime(2013, 2, 12, 0, 0, 0, 1), datetime(2013, 2, 12, 9, 30), datetime(9999, 12, 31, 23, 59, 59),
]  # fmt: skip
ZONED = [moment.replace(tzinfo=UTC) for moment in TIMES]

COLUMNS: dict[str, tuple[pa.DataType, list[Any], st.SearchStrategy[Any]]] = {
    "small": (pa.int16(), [-(2**15), -1, 0, 1, 2, 2**15 - 1], st.integers(-3, 3)),
    "int": (pa.int32(), [-(2**31), -1, 0, 1, 2, 100, 2**31 - 1], st.integers(-3, 3)),
    "big": (pa.int64(), [-(2**63), -WIDE - 1, -1, 0, 1, WIDE, WIDE + 1, 2**63 - 1], st.integers(-3, 3)),
    "real": (pa.float32(), [*FLOATS[:9], math.inf, -math.inf, math.nan], st.floats(width=32)),
    "double": (pa.float64(), [*FLOATS, math.nan], st.floats()),
    "cents": (pa.decimal128(10, 2), CENTS, st.sampled_from(CENTS)),
    "fine": (pa.decimal128(38, 20), FINE, st.sampled_from(FINE)),
    "flag": (pa.bool_(), [True, False], st.booleans()),
    "text": (
        pa.string(),
        TEXTS,
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
    ),
    "date": (pa.date32(), DATES, st.dates()),
    "stamp": (pa.timestamp("us"), TIMES, st.datetimes()),
    "zoned": (UTC_TIME, ZONED, st.datetimes(timezones=st.just(UTC))),
    "time": (pa.time64("us"), [time(0), time(9, 30), time(23, 59, 59, 999999)], st.times()),
    "bytes": (pa.binary(), [b"", b"a", b"\x00", b"\xff"], st.binary(max_size=2)),
    "list": (pa.list_(pa.float64()), [[], [math.nan], [1.0, 2.0]], st.lists(st.floats(), max_size=2)),
}
"""The type of a column, values at its edges, and any values."""
FLAT = [name for name in COLUMNS if name != "list"]
SCHEMA = pa.schema([(f"{name}_{side}", column[0]) for name, column in COLUMNS.items() for side in "ab"])

NUMBERS = ["small", "int", "big", "real", "double", "cents", "fine"]
ANY_NUMBER = st.sampled_from([0.5, -(2**63), 40000, 1e300, "0.1", "inf"]) | st.floats(allow_nan=False)
ORDERED: dict[str, st.SearchStrategy[Any]] = {
    name: st.sampled_from([float(value) for value in COLUMNS[name][1] if value == value]) | ANY_NUMBER
    for name in NUMBERS
} | {
    "date": st.sampled_from(DATES).map(str),
    "stamp": st.sampled_from(TIMES).map(datetime.isoformat),
    "zoned": st.sampled_from(ZONED).map(datetime.isoformat),
}
"""Bounds as they stand in JSON: at the edges of the columns that can be ordered, and elsewhere."""
SETS: dict[str, st.SearchStrategy[Any]] = {
    "small": st.integers(-2, 40000),
    "int": st.sampled_from([-1, 0, 1, 2, 2**31 - 1, 2**40]),
    "big": st.sampled_from([-1, 0, 1, WIDE, WIDE + 1, 2**63 - 1]),
    "real": st.sampled_from([0, 1, -0.0, 0.1, 0.5, 1.5, math.inf]),
    "double": st.sampled_from([0, 1, -0.0, 0.1, 0.5, 1.5, WIDE + 1, math.inf]),
    "cents": st.sampled_from([0, 1, 0.1, 0.5, 1.1, 0.123, 99999999.99]),
    "fine": st.sampled_from([0, 1, 0.1, 0.5, 123456789.1]),
    "flag": st.booleans(),
    "text": st.sampled_from(TEXTS),
}
FLAGS = st.sampled_from([None, True, False])
IGNORE_PAIR = [None, "both_values_are_missing", "either_value_is_missing", "neither"]
IGNORE_COMPOUND = [None, "all_values_are_missing", "any_value_is_missing", "never"]
Configuration = tuple[str, tuple[str, ...], dict[str, Any]]
"""An expectation, its columns and its kwargs; a kwarg that is None is left out."""


def edges() -> pa.Table:
    """Every value at an edge, and null, in each column, next to different ones in the other columns."""
    columns = []
    for shift, field in enumerate(SCHEMA):
        pool = [None, *COLUMNS[field.name[:-2]][1]]
        columns.append(pa.array([pool[(row + shift * row // 5) % len(pool)] for row in range(70)], field.type))
    return pa.table(columns, schema=SCHEMA)


@st.composite
def drawn(draw: st.DrawFn, names: Iterable[str]) -> pa.Table:
    rows = draw(st.integers(1, 16))
    arrays = {}
    for name in names:
        arrow_type, pool, values = COLUMNS[name[:-2]]
        missing = draw(st.sampled_from([0, 1, 1, 3]))
        value = st.one_of(*[st.none()] * missing, *[st.sampled_from(pool)] * 2, values)
        arrays[name] = pa.array(draw(st.lists(value, min_size=rows, max_size=rows)), arrow_type)
    return pa.table(arrays)


def tables(names: list[str]) -> st.SearchStrategy[pa.Table]:
    return st.just(edges().select(names)) | drawn(names)


@st.composite
def bounds(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> dict[str, Any]:
    low, high = draw(st.tuples(values, values) | st.tuples(values, st.none()) | st.tuples(st.none(), values))
    if low is not None and high is not None:
        low, high = sorted((low, high), key=lambda bound: parse_bound("bound", bound))  # type: ignore[arg-type, return-value]  # of one kind
    return {"min_value": low, "max_value": high, "strict_min": draw(FLAGS), "strict_max": draw(FLAGS)}


def check(table: pa.Table, configurations: Iterable[Configuration]) -> None:
    """Great Expectations says of each rule that is compiled what the compiled rule says."""
    compiled = []
    for index, (expectation, columns, kwargs) in enumerate(configurations):
        given_kwargs = {key: value for key, value in kwargs.items() if value is not None}
        rule = Rule(str(index), index, f"expect_{expectation}", columns, given_kwargs, "critical")
        try:
            failing = compile_rule(rule, SCHEMA)
        except RuleError:
            continue  # Refused when the contract is loaded.
        if failing is not None:
            compiled.append((rule, failing))
    theirs = gx.failing([rule for rule, _ in compiled], table)
    for (rule, failing), their in zip(compiled, theirs, strict=True):
        assert not their.errors, (rule, their.errors)
        ours = failing(*[table.column(column).combine_chunks() for column in rule.columns])
        rows = [] if ours is None else [row for row, fails in enumerate(ours.to_pylist()) if fails]
        assert rows == their.rows.tolist(), f"{rule}\n{table.select(rule.columns).to_pydict()}"


def examples(count: int) -> settings:
    # No shrinking: it takes minutes here, and a failure already names one rule and the rows of its columns.
    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    return settings(max_examples=count, phases=phases, suppress_health_check=list(HealthCheck))


@examples(3)
@given(data=st.data())
def test_null(data: st.DataObject) -> None:
    columns = [f"{name}_a" for name in COLUMNS]
    check(
        data.draw(tables(columns)),
        [
            (f"column_values_to_{word}_null", (column,), {"column": column})
            for column in columns
            for word in ("be", "not_be")
        ],
    )


@examples(8)
@given(data=st.data())
def test_between(data: st.DataObject) -> None:
    columns = [f"{name}_a" for name in ORDERED]
    check(
        data.draw(tables(columns)),
        [
            ("column_values_to_be_between", (f"{name}_a",), {"column": f"{name}_a"} | data.draw(bounds(values)))
            for name, values in ORDERED.items()
            for _ in range(2)
        ],
    )


@examples(8)
@given(data=st.data())
def test_sets(data: st.DataObject) -> None:
    table = data.draw(tables([f"{name}_a" for name in SETS]))
    check(
        table,
        [
            (
                f"column_values_to_{word}_in_set",
                (f"{name}_a",),
                {"column": f"{name}_a", "value_set": data.draw(st.lists(values, min_size=1, max_size=4))},
            )
            for name, values in SETS.items()
            for word in ("be", "not_be")
        ],
    )


@examples(2)
@given(texts=st.lists(st.text(st.sampled_from("aAkKb1 .\n\x1cé\u0661\u212a"), max_size=4), max_size=30))
def test_regex(texts: list[str]) -> None:
    check(
        pa.table({"text_a": [None, *TEXTS, *texts]}),
        [
            (f"column_values_to_{word}_regex", ("text_a",), {"column": "text_a", "regex": pattern})
            for word, patterns in (("match", PATTERNS), ("not_match", PATTERNS[::8]))
            for pattern in patterns
        ],
    )


@examples(6)
@given(data=st.data())
def test_lengths(data: st.DataObject) -> None:
    one = {"column": "text_a"}
    check(
        data.draw(tables(["text_a"])),
        [
            ("column_value_lengths_to_equal", ("text_a",), one | {"value": data.draw(st.integers(0, 4))}),
            *[
                ("column_value_lengths_to_be_between", ("text_a",), one | data.draw(bounds(st.integers(0, 5))))
                for _ in range(5)
            ],
        ],
    )


@examples(6)
@given(data=st.data())
def test_pairs(data: st.DataObject) -> None:
    def configuration(name: str, expectation: str, kwargs: dict[str, Any]) -> Configuration:
        other = data.draw(st.sampled_from(NUMBERS)) if name in NUMBERS else name
        columns = (f"{name}_a", f"{other}_b")
        ignore = data.draw(st.sampled_from(IGNORE_PAIR))
        named = {"column_A": columns[0], "column_B": columns[1], "ignore_row_if": ignore}
        return expectation, columns, named | kwargs

    check(
        data.draw(tables([f"{name}_{side}" for name in FLAT for side in "ab"])),
        [
            *[configuration(name, "column_pair_values_to_be_equal", {}) for name in FLAT],
            *[
                configuration(name, "column_pair_values_a_to_be_greater_than_b", {"or_equal": data.draw(FLAGS)})
                for name in FLAT
            ],
        ],
    )


@examples(6)
@given(data=st.data())
def test_unique(data: st.DataObject) -> None:
    columns = [f"{name}_a" for name in FLAT]
    check(
        data.draw(tables(columns)),
        [("column_values_to_be_unique", (column,), {"column": column}) for column in columns],
    )


@examples(8)
@given(data=st.data())
def test_compound_unique(data: st.DataObject) -> None:
    columns = [f"{name}_a" for name in FLAT]
    combinations = st.lists(st.sampled_from(columns), min_size=2, max_size=3, unique=True)
    configurations: list[Configuration] = []
    for _ in range(8):
        chosen = data.draw(combinations)
        kwargs = {"column_list": chosen, "ignore_row_if": data.draw(st.sampled_from(IGNORE_COMPOUND))}
        configurations.append(("compound_columns_to_be_unique", tuple(chosen), kwargs))
    check(data.draw(tables(columns)), configurations)


@given(
    pattern=st.text(st.sampled_from("ab1Z.^$|?*+()[]{},-\\dDsSwWbAZ\n é"), max_size=12),
    texts=st.lists(st.sampled_from(TEXTS) | st.text(st.sampled_from("ab1Z.\n é-"), max_size=6)),
)
@settings(max_examples=500)
def test_a_pattern_finds_what_python_finds(pattern: str, texts: list[str]) -> None:
    try:
        search = re.compile(pattern).search
    except (re.error, OverflowError):
        reject()
    expected = [search(text) is not None for text in texts]
    assert Pattern(pattern).found(pa.array(texts, pa.string())).to_pylist() == expected
