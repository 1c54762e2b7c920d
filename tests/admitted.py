"""A request as a server admits it, for the tests of keys."""

from serving.access import Access, Caller


def admit(access: Access, key_id: str, project: str, service: str | None, entities: int) -> Caller:
    """Reached and charged. Raises `AccessRefused`."""
    caller = access.reach(key_id, project, service)
    access.charge(key_id, entities)
    return caller
