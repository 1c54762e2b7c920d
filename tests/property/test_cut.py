"""Records cut by their bytes: the first of them and the others are all of them, in their order."""

from hypothesis import given
from hypothesis import strategies as st

from streams.messages import Records, cut

VALUES = st.none() | st.binary(max_size=20)


def records(topic: str, values: list[bytes | None]) -> Records:
    count = len(values)
    headers = {i: {"place": bytes([i])} for i in range(count)}
    return Records(topic, [0] * count, range(count), [b"k"] * count, values, headers)


def places(several: list[Records]) -> list[tuple[str, int, bytes | None, bytes | None]]:
    return [
        (part.topic, part.offsets[i], part.values[i], part.headers[i]["place"])
        for part in several
        for i in range(len(part))
    ]


@given(several=st.lists(st.lists(VALUES, max_size=8), max_size=5), most=st.integers(0, 100))
def test_as_many_as_fit_come_first_and_at_least_one(several: list[list[bytes | None]], most: int) -> None:
    given_ = [records(f"t{number}", values) for number, values in enumerate(several)]
    first, others = cut(given_, most)
    assert places(first) + places(others) == places(given_)
    size = sum(part.size for part in first)
    assert size <= most or sum(map(len, first)) == 1
    assert any(first) or not any(given_)
    if any(others):
        following = next(value for _, _, value, _ in places(others))
        assert size + len(following or b"") > most
