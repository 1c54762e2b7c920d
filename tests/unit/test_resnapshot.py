"""What `millrace resnapshot` refuses before it asks for anything."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import millrace.resnapshot
from millrace.repo import UnknownTable
from millrace.resnapshot import CannotAsk, resnapshot
from tests.envelopes import ORDERS


def test_a_table_that_debezium_cannot_find_by_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parser of names ends at a blank, and says so in the connector's log only."""
    odd = SimpleNamespace(table=replace(ORDERS, name="Order Items"))
    monkeypatch.setattr(millrace.resnapshot, "flows", lambda repo: {"shop.public.Order_Items": odd})
    with pytest.raises(CannotAsk, match=r"public\.Order Items has a blank in its name.*run millrace recover shop"):
        resnapshot(None, ["shop.public.Order_Items"], 1.0, print)  # type: ignore[arg-type]  # it is not asked
    with pytest.raises(UnknownTable, match=r"did you mean shop\.public\.Order_Items"):
        resnapshot(None, ["shop.public.Order Items"], 1.0, print)  # type: ignore[arg-type]  # nor here
