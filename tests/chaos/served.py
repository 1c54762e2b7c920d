"""The views of tests/repos/chaos as the verdict knows them, told apart from the code that makes them."""

from dataclasses import dataclass
from typing import Any

from tests.chaos.ledger import Ledger, Row


@dataclass(frozen=True, slots=True)
class Served:
    """A view as the verdict knows it: its table and the column of its entity; `event` views serve the row with
    the newest `at`. `features` are made of the table's row."""

    table: str
    column: str
    key: str
    event: bool
    features: tuple[str, ...]

    def wanted(self, ledger: Ledger) -> dict[Any, dict[str, Any]]:
        """What must be served, by entity."""
        rows = ledger.newest(self.table, self.column) if self.event else ledger.accepted_rows(self.table)
        return {entity: self.made_of(row) for entity, row in rows.items()}

    def made_of(self, row: Row) -> dict[str, Any]:
        """The features of a row."""
        return {name: _feature(row, name) for name in self.features}


VIEWS = {
    "account_facts": Served("accounts", "id", "account", False, ("owner", "balance", "tier", "bio", "v")),
    "account_last_trade": Served("trades", "account", "account", True, ("amount", "note", "v")),
    "desk_last_trade": Served("trades", "desk", "desk", True, ("cents", "large", "v")),
    "stock_level": Served("stock", "sku", "sku", False, ("on_hand", "v")),
    "shelf_last_count": Served("stock", "shelf", "shelf", True, ("on_hand", "v")),
}
VECTOR_VIEW = Served("articles", "id", "article", False, ("title", "v"))


def _feature(row: Row, name: str) -> Any:
    match name:
        case "cents":
            return row["amount"] * 100
        case "large":
            return row["amount"] >= 500
    return row[name]
