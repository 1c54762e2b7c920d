"""What happens in the bazaar: rows before the capture, changes after it, and what PostgreSQL says came of it."""

import json
import random
import string
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any
from uuid import UUID

import numpy as np
from feast.types import Array, FeastType, Float32, Float64, Json, Uuid
from feast.types import Decimal as FeastDecimal

LONG = "".join(random.Random(7).choices(string.ascii_letters, k=40_000))
"""Text that PostgreSQL cannot compress into the row: it is TOASTed, and an update that leaves it alone does not
write it to the log again."""

GOODS_BEFORE = [
    """('Acme', 1, 7, 70, 4006381333931, 1.1, 0.1, 19.90, 12345678901234567890.123456789,
        1.5, true, 'kg', 'Garden chair', 'A folding chair of oak for the garden', 'OuTdOoR', 'A',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2013-02-12', '08:30', '2013-02-12 03:00:00.123456',
        '2013-02-12 03:00:00.654321+02', '1 year 2 mons 3 days 04:05:06.789', '\\x00ff01',
        '{"a":  1, "b": [1.0, null]}', '{"z": true, "a": 1e3}', '10.0.0.1/24')""",
    "('Acme', 2" + ", null" * 24 + ")",
    """('Zürich \U0001f600 "quoted" \\ \u0001', -2147483648, -32768, 0, -9223372036854775808, 'NaN', '-Infinity', 0,
        'NaN', -1234567890123456789012345678.0123456789, false, '', 'Ünï\u2028code\nline', '', '', 'C',
        '00000000-0000-0000-0000-000000000000', '0001-01-01', '23:59:59.999999', '1969-12-31 23:59:59.999999',
        '1900-01-01 00:00+00', '-1 day -00:00:01', '', 'null', '"x"', '::1')""",
    f"""('Paper', 3, 32767, 2147483647, 9223372036854775807, 'Infinity', 'NaN', 99999999.99, '-Infinity', 0, true, 'g',
        'Encyclopedia', '{LONG}', 'x', 'B', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '9999-12-31', '00:00',
        '9999-12-31 23:59:59', '9999-12-31 23:59:59+00', '0', '\\xdeadbeef', '[]', '{{}}', '::ffff:1.2.3.4')""",
    "('Stale', 9, 1" + ", null" * 23 + ")",
]
GOODS_COLUMNS = (
    "vendor, sku, bin, pieces, barcode, weight, volume, price, tax, mass, fragile, unit, title, description, label, "
    "grade, batch, made_on, opens, listed, updated, warranty, seal, details, attributes, scanner"
)

FULL, EMPTY, ODD, GONE = (f"00000000-0000-0000-0000-00000000000{i}" for i in range(1, 5))
LISTS = {
    FULL: """'{1,-2}', '{2147483647,-5}', '{9223372036854775807}', '{1.1,2.5}', '{0.1,-3}', '{a,"b,c",ü}', '{ab,c}',
        '{t,f}', '{"\\\\x00ff","\\\\x01"}', '{1969-12-31,2020-01-01}', '{2020-01-01 00:00:00.5+00}',
        '[1,2.5,-3]', '[1,2]'""",
    EMPTY: "'{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', null, null",
    ODD: """'{1,NULL}', '{NULL}', '{NULL,1}', '{NaN,Infinity,NULL}', '{NaN,-Infinity,NULL}', '{NULL,""}', '{NULL}',
        '{NULL,t}', '{NULL,""}', '{NULL}', '{NULL,0001-01-01 00:00+00}', '[0,0,1]', '[0,0]'""",
    GONE: "null, null, null, null, null, null, null, null, null, null, null, null, null",
}

BEFORE_SHOP = [
    *(f"insert into goods ({GOODS_COLUMNS}) values {row}" for row in GOODS_BEFORE),
    *(f"insert into measurements values ('{key}', {LISTS[key]})" for key in (FULL, EMPTY, GONE)),
    """insert into "Order Lines" values
        (1, 1, 'Acme', 'north', 10.5, 2, '2024-01-01 10:00'), (1, 2, 'Acme', 'south', 99.9999, 3, '2024-01-01 11:00'),
        (2, 1, 'Paper', 'north', 5, 0, '2024-01-02')""",
    """insert into orders values
        (1, 'ann', 10, 'paid', 'first', '2024-01-01 10:00+00'), (2, 'ann', 20, 'open', 'second', '2024-01-02 10:00+00'),
        (3, 'bob', 30, 'sent', null, '2024-01-01 10:00+00'), (4, null, 40, 'open', 'nobody', '2024-01-01 10:00+00'),
        (5, 'cleo', 50, 'open', 'only', '2024-01-05 10:00+00')""",
]
BEFORE_DEPOT = [
    """insert into yard.stock values ('north', 1, 10, 4, '2024-01-01 00:00+00'),
        ('north', 2, 3, 3, '2024-01-01 00:00+00'), ('south', 1, 100, 0, '2024-01-01 00:00+00')""",
    """insert into yard."Badges" values
        ('\\x00ff', 'ann', '2030-01-01'), ('\\x', 'empty', null), ('\\x02', 'bob', null)""",
]

LIVE_SHOP = [
    # Inserts, an update that leaves TOASTed text alone, a delete, a change of a key.
    "insert into goods (vendor, sku, pieces, title, description) values ('Late', 5, 50, 'Rowing boat', 'For two')",
    "insert into goods (vendor, sku, pieces, title) values ('Acme', 4, 40, 'Parasol')",
    "update goods set pieces = 1, updated = '2024-05-05 05:05:05+00' where vendor = 'Paper'",
    "delete from goods where vendor = 'Acme' and sku = 2",
    "update goods set vendor = 'Acme South', sku = 44, weight = 4.4 where sku = 4",
    # Several changes of one row in one transaction share their commit time; a rollback leaves nothing.
    """begin; update goods set pieces = 71 where sku = 1; update goods set pieces = 72 where sku = 1;
        update goods set pieces = 73 where sku = 1; commit""",
    "begin; insert into goods (vendor, sku) values ('Never', 1); update goods set pieces = 0; rollback",
    "begin; insert into goods (vendor, sku) values ('Brief', 1); delete from goods where vendor = 'Brief'; commit",
    # A row made anew under its old key, in one transaction.
    """begin; delete from goods where vendor = 'Late';
        insert into goods (vendor, sku, title) values ('Late', 5, 'Anew'); commit""",
    f"insert into measurements values ('{ODD}', {LISTS[ODD]})",
    f"delete from measurements where id = '{GONE}'",
    f"update measurements set words = words || '{{more}}', shape = '[9,9,9]' where id = '{FULL}'",
    # Everything at once is gone, then some of it is there again.
    'truncate "Order Lines"',
    """insert into "Order Lines" values
        (1, 1, 'Acme', 'north', 7, 20, '2024-02-01 10:00'), (3, 1, 'Acme', 'north', 1, 1, '2024-01-15'),
        (3, 2, 'Acme', 'south', 2, 1, '2024-01-15'), (4, 1, 'Paper', null, 1, 1, '2024-01-15'),
        (5, 1, 'Paper', 'west', 3, 0, '2024-03-01')""",
    'update "Order Lines" set "Line No" = 3 where "Order Id" = 3 and "Line No" = 2',
    # The newest of an entity is deleted; moved back in time; moved to another entity; a late older one arrives.
    "delete from orders where id = 2",
    "update orders set customer = 'bob', placed_at = '2024-01-09 10:00+00' where id = 5",
    "update orders set placed_at = '2023-01-01 10:00+00', note = 'moved back' where id = 3",
    "insert into orders values (6, 'dora', 60, 'paid', 'newest', '2024-06-01 10:00+00')",
    "insert into orders values (7, 'dora', 70, 'paid', 'late', '2024-05-01 10:00+00')",
]
LIVE_DEPOT = [
    "update yard.stock set reserved = reserved + 1, counted_at = now() where warehouse = 'north' and sku = 1",
    "delete from yard.stock where sku = 2",
    "insert into yard.stock values ('west', 9, 6, 2, '1960-01-01 00:00+00')",
    'truncate yard."Badges"',
    "insert into yard.\"Badges\" values ('\\x00ff', 'ann again', '2031-01-01'), ('\\xff', 'zoe', '1969-12-31')",
]

# New rows that must not pass, and rows that stood already and are changed for the worse. By what the letters say.
BAD_SHOP = {
    ("contract", "expect_column_values_to_be_in_set on status: 'lost'"): (
        "insert into orders values (100, 'eve', 1, 'lost', null, now())"
    ),
    ("contract", "expect_column_values_to_be_between on Unit Price: -1"): (
        """insert into "Order Lines" values (9, 1, 'Acme', 'north', -1, 1, '2030-01-01')"""
    ),
    ("contract", "expect_column_value_lengths_to_be_between on title"): (
        "insert into goods (vendor, sku, title) values ('Bad', 1, '')"
    ),
    ("schema", "column updated (timestamp with time zone)"): (
        "update goods set updated = 'infinity', pieces = 5 where vendor = 'Stale'"
    ),
    ("transform", "the event time placed_at is null"): "insert into orders values (101, 'eve', 1, 'open', null, null)",
}
BAD_DEPOT = {
    ("contract", "expect_column_pair_values_a_to_be_greater_than_b"): (
        "insert into yard.stock values ('bad', 1, 1, 2, now())"
    ),
    ("transform", "raised ZeroDivisionError"): "insert into yard.stock values ('bad', 2, 0, 0, now())",
}


def envelope(**fields: Any) -> bytes:
    """A record of `orders` as Debezium would write it, but for what `fields` says."""
    after = {"id": 900, "customer": "eve", "amount": 1.0, "status": "open", "placed_at": "2024-01-01T00:00:00Z"}
    source = {"lsn": 1, "ts_us": 1_700_000_000_000_000}
    return json.dumps({"op": "c", "before": None, "after": after, "source": source, **fields}).encode()


BAD_RECORDS = {
    ("decode", "not JSON"): b'{"op": "c", "after": {',
    ("decode", "unknown operation 'x'"): envelope(op="x"),
    ("decode", "record of 5,"): envelope(padding="x" * 5_000_000),
    ("schema", "column amount (double precision): 'much'"): envelope(
        after={"id": 900, "amount": "much", "status": "open"}
    ),
}


def as_served(value: Any, kind: FeastType) -> Any:
    """A value that psycopg read, as Feast serves it in a field of that type."""
    if value is None:
        return None
    if isinstance(kind, Array):
        items = json.loads(value) if isinstance(value, str) else value
        return [_stand_in(kind.base_type) if i is None else as_served(i, kind.base_type) for i in items]
    if isinstance(value, datetime):  # Feast's timestamps are whole seconds
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, time):
        return value.isoformat("microseconds")
    if isinstance(value, UUID):
        return value if kind == Uuid else str(value)
    if kind == Float32:
        return float(np.float32(value))
    if kind == Float64:
        return float(value)
    if kind == FeastDecimal:  # compared as text: NaN is equal to nothing
        return str(value)
    if kind == Json:
        return json.loads(value)
    return bytes(value) if isinstance(value, memoryview) else value


def _stand_in(kind: FeastType) -> Any:
    """Feast has no null inside a list: what it stores in its place."""
    name = str(kind)
    return {"String": "", "Bytes": b"", "Bool": False, "UnixTimestamp": None}.get(name, 0)


@dataclass(frozen=True)
class Truth:
    """A view in PostgreSQL: the query that gives its entities, which columns are the join keys, entities that are
    not there any more or never were, and the kind of the view."""

    query: str
    keys: tuple[str, ...]
    gone: tuple[tuple[Any, ...], ...]
    kind: str = "state"
    depot: bool = False


TRUTH = {
    "goods_facts": Truth(
        """
        select vendor, sku, bin, pieces, barcode, weight, volume, price, tax, mass, fragile, unit, title, description,
               label::text as label, grade::text as grade, batch, made_on, opens, listed, updated, seal,
               case when details is not null then format('%s', details) end as details,
               case when attributes is not null then format('%s', attributes) end as attributes,
               case when scanner is not null then format('%s', scanner) end as scanner
        from goods where vendor not in ('Bad', 'Stale')
        """,
        ("vendor", "sku"),
        (("Acme", 2), ("Acme", 4), ("Never", 1), ("Brief", 1), ("Bad", 1)),
    ),
    "sample_lists": Truth(
        """
        select id::text as sample_id, small, whole, big, single, double, words, codes, truths, marks, days, instants,
               shape::text as shape, half::text as half
        from measurements
        """,
        ("sample_id",),
        ((GONE,),),
    ),
    "order_lines": Truth(
        """
        select "Order Id" as order_id, "Line No" as line_no, "Unit Price" as unit_price, quantity, "Vendor"
        from "Order Lines" where "Unit Price" >= 0
        """,
        ("order_id", "line_no"),
        ((1, 2), (2, 1), (3, 2), (9, 1)),
    ),
    "vendor_last_sale": Truth(
        """
        select distinct on ("Vendor", "Region") "Vendor" as vendor, "Region" as region,
               ("Unit Price" * quantity)::float8 as total, "Unit Price" * quantity >= 100 as large, "Sold At" as sold
        from "Order Lines" where "Unit Price" >= 0 and quantity > 0 and "Region" is not null
        order by 1, 2, "Sold At" desc
        """,
        ("vendor", "region"),
        (("Paper", "north"), ("Paper", "west"), ("Acme", "west")),
        kind="event",
    ),
    "customer_last_order": Truth(
        """
        select distinct on (customer) customer, amount, status, note from orders
        where customer is not null and status <> 'lost' and placed_at is not null order by 1, placed_at desc
        """,
        ("customer",),
        (("cleo",), ("eve",)),
        kind="event",
    ),
    "stock_level": Truth(
        """
        select warehouse, sku, on_hand - reserved as free, reserved / on_hand::float8 as share_reserved,
               case when on_hand <= reserved then 'out' when on_hand - reserved < 5 then 'low' else 'plenty' end
               as level
        from yard.stock where warehouse <> 'bad'
        """,
        ("warehouse", "sku"),
        (("north", 2), ("bad", 1), ("bad", 2)),
        depot=True,
    ),
    "badge_owner": Truth(
        'select token, owner, "validUntil" as valid_until from yard."Badges"',
        ("token",),
        ((b"",), (b"\x02",)),
        depot=True,
    ),
}
