"""What can go wrong in a store."""


class StoreUnavailable(Exception):
    """The store does not answer, or is full: keep the batch, wait and retry.

    `store` is its name for people ("Redis", "the lake", "pgvector"), `detail` where and why.
    """

    def __init__(self, store: str, detail: str) -> None:
        super().__init__(f"{store} is unavailable: {detail}")
        self.store = store
        self.detail = detail


class StoreRefused(Exception):
    """The store cannot hold what was declared (colliding fields, another embedding model): stop and say so."""


class TooMuch(Exception):
    """What is asked for takes more than is read at once: ask for less."""


class NotSetUp(StoreRefused):
    """The store has no place for a view: `millrace apply` has not made it yet, or is just taking it away."""


class RegistryUnreadable(Exception):
    """Feast's registry is away, or what is stored is no whole one of the project; the text says where, and what to do.

    It may be just being written: wait and retry, as for a store.
    """


class NothingApplied(RegistryUnreadable):
    """There is no registry, or none of the project: what `millrace apply` makes."""
