"""Access for everybody, which counts what it is charged."""

from serving.access import OpenAccess


class Charged(OpenAccess):
    """Counts what is charged: requests, and the entities of each."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.entities: list[int] = []

    def charge(self, key_id: str, entities: int) -> None:
        self.requests += 1
        self.entities.append(entities)
