"""Envelopes to Arrow: every operation, and every way in which a record can be bad."""

import orjson
import pytest

from connectors.encodings import PLACEHOLDER
from streams.decode import Decoded, decode_records
from streams.messages import Records
from tests.envelopes import ORDERS, envelope, key, records, row

LIMIT = 100_000


def decode(*values: tuple[bytes | None, bytes | None], before: tuple[str, ...] = ()) -> Decoded:
    return decode_records(records(*values), ORDERS, before, LIMIT)


def test_creates_updates_and_snapshot_reads_become_typed_rows() -> None:
    decoded = decode(
        (key(1), envelope("c", row(1), lsn=10)),
        (key(1), envelope("u", row(1, amount="NaN"), lsn=11)),
        (key(2), envelope("r", row(2, customer=None), lsn=12)),
    )
    table = decoded.changes.rows
    assert table["id"].to_pylist() == [1, 1, 2]
    assert table["_op"].to_pylist() == ["c", "u", "r"]
    assert table["_lsn"].to_pylist() == [10, 11, 12]
    assert table["_offset"].to_pylist() == [0, 1, 2]
    assert table["customer"].to_pylist() == ["ann", "ann", None]
    assert str(table["amount"][1]) == "nan"
    assert "area" not in table.column_names
    assert not decoded.rejections and not decoded.ignored


def test_a_delete_has_its_key_and_the_old_values_that_were_sent() -> None:
    decoded = decode(
        (key(1), envelope("d", None, before={"id": 1, "customer": None}, lsn=10)),
        (key(2), envelope("d", None, before=row(2, customer="bob"), lsn=11)),
        (key(3), envelope("d", None, lsn=12)),
    )
    assert decoded.changes.rows["id"].to_pylist() == [1, 2, 3]
    assert decoded.changes.rows["customer"].to_pylist() == [None, "bob", None]


def test_a_delete_goes_through_whatever_its_old_values_were() -> None:
    old = row(1, amount="much", customer=5, placed_at="infinity")
    decoded = decode((key(1), envelope("d", None, before=old, lsn=10)), before=("customer",))
    assert not decoded.rejections
    assert decoded.changes.rows["id"].to_pylist() == [1]
    assert decoded.changes.rows["amount"].to_pylist() == [None]
    assert decoded.changes.before is not None
    assert decoded.changes.before["customer"].to_pylist() == [None]


def test_a_row_that_held_what_no_column_takes_is_good_again_once_it_is_mended() -> None:
    value = envelope("u", row(1, customer="ann"), before=row(1, customer=5), lsn=10)
    decoded = decode((key(1), value), before=("customer",))
    assert not decoded.rejections
    assert decoded.changes.rows["customer"].to_pylist() == ["ann"]


def test_tombstones_and_logical_messages_are_ignored_and_counted() -> None:
    message = orjson.dumps({"op": "m", "source": {"lsn": 1, "ts_us": 1}, "message": {}})
    decoded = decode((key(1), None), (b'{"prefix":"x"}', message), (key(2), envelope("c", row(2), lsn=2)))
    assert decoded.ignored == 2
    assert decoded.positions.tolist() == [2]


def test_a_truncate_is_a_row_of_nulls() -> None:
    decoded = decode((None, envelope("t", None, lsn=10)))
    assert decoded.changes.rows["id"].to_pylist() == [None]
    assert decoded.changes.rows["_op"].to_pylist() == ["t"]
    assert not decoded.rejections


def test_missing_columns_are_null_and_unknown_ones_are_ignored() -> None:
    decoded = decode((key(1), envelope("c", {"id": 1, "added_later": 5}, lsn=1)))
    assert decoded.changes.rows["amount"].to_pylist() == [None]
    assert "added_later" not in decoded.changes.rows.column_names


@pytest.mark.parametrize(
    ("value", "stage", "reason"),
    [
        (b"{not json", "decode", "not JSON"),
        (b"[]", "decode", "not a Debezium envelope"),
        (b"1", "decode", "not a Debezium envelope"),
        (b"1,2", "decode", "not JSON"),
        (b"{}],[{}", "decode", "not JSON"),
        (b'"text"', "decode", "not a Debezium envelope"),
        (envelope("x", row(1), lsn=1), "decode", "unknown operation 'x'"),
        (envelope("c", None, lsn=1), "decode", "no row image"),
        (orjson.dumps({"op": "c", "after": row(1), "source": {"ts_us": 1}}), "decode", "lsn"),
        (envelope("c", row(1), lsn=2**63, ts_us=1), "decode", "source.lsn"),
        (envelope("c", row(1), lsn=-1), "decode", "source.lsn"),
        (envelope("r", row(1), lsn=1, ts_us=2**63), "decode", "source.ts_us"),
        (envelope("c", row(1), lsn=1, ts_us=253_402_300_800_000_000), "decode", "source.ts_us"),
        (envelope("c", row(1), lsn=1, ts_us=-62_135_596_800_000_001), "decode", "source.ts_us"),
        (envelope("u", row(1), before="x", lsn=1), "decode", "before is no row image"),
        (envelope("u", row(1, customer=PLACEHOLDER), before=[1], lsn=1), "decode", "before is no row image"),
        (envelope("d", None, before=[], lsn=1), "decode", "before is no row image"),
        (envelope("c", row(1, amount="much"), lsn=1), "schema", "column amount (double precision): 'much'"),
        (envelope("c", row(1, amount=True), lsn=1), "schema", "column amount"),
        (envelope("c", {**row(1), "id": "one"}, lsn=1), "schema", "column id (bigint)"),
        (envelope("c", {**row(1), "id": 2**63}, lsn=1), "schema", "column id (bigint)"),
        (envelope("c", {**row(1), "id": None}, lsn=1), "schema", "primary key"),
        (envelope("c", row(1, placed_at="yesterday"), lsn=1), "schema", "column placed_at"),
        (envelope("c", row(1, customer="x" * LIMIT), lsn=1), "decode", "larger than worker.max_record_bytes"),
        (envelope("u", row(1, customer=PLACEHOLDER), lsn=1), "decode", "REPLICA IDENTITY FULL"),
    ],
)
def test_a_bad_record_is_rejected_by_name_and_the_others_go_on(value: bytes, stage: str, reason: str) -> None:
    good = (key(1), envelope("c", row(7), lsn=1)), (key(2), envelope("c", row(8), lsn=2))
    decoded = decode(good[0], (key(1), value), good[1], before=("customer",))
    assert decoded.changes.rows["id"].to_pylist() == [7, 8]
    assert decoded.positions.tolist() == [0, 2]
    (rejection,) = decoded.rejections
    assert (rejection.position, rejection.stage) == (1, stage)
    assert any(reason in text for text in rejection.reasons), rejection.reasons


ONE, OTHER = envelope("c", row(1), lsn=1), envelope("c", row(2), lsn=2)
HEAD, TAIL = b'{"x":[{}', b"{}]," + envelope("c", row(7), lsn=1)[1:]


@pytest.mark.parametrize(
    "values",
    [
        (ONE[:-1] + b',"x":"', b'"}', ONE + b"," + OTHER),
        (HEAD, TAIL, ONE + b"," + OTHER),  # each begins and ends as an object
    ],
)
def test_bad_records_make_no_good_one_together(values: tuple[bytes, ...]) -> None:
    decoded = decode(*((key(1), value) for value in values))
    assert not len(decoded.changes)
    assert [rejection.position for rejection in decoded.rejections] == [0, 1, 2]


def test_all_faults_of_a_record_are_named() -> None:
    decoded = decode((key(1), envelope("c", row(1, amount="much", placed_at="never"), lsn=1)))
    (rejection,) = decoded.rejections
    assert len(rejection.reasons) == 2


def test_an_unchanged_toasted_value_is_taken_from_the_old_row() -> None:
    update = envelope("u", row(1, customer=PLACEHOLDER), before=row(1, customer="a long text"), lsn=2)
    assert decode((key(1), update)).changes.rows["customer"].to_pylist() == ["a long text"]


def test_old_values_are_decoded_where_an_event_view_wants_them() -> None:
    decoded = decode(
        (key(1), envelope("u", row(1, customer="bob"), before=row(1, customer="ann"), lsn=1)),
        (key(2), envelope("c", row(2), lsn=2)),
        before=("customer",),
    )
    assert decoded.changes.before is not None
    assert decoded.changes.before["customer"].to_pylist() == ["ann", None]


def test_nothing_to_decode_is_no_error() -> None:
    decoded = decode_records(Records(ORDERS.topic, [], [], [], []), ORDERS, (), LIMIT)
    assert len(decoded.changes) == 0
