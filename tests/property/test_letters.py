"""Which letters `replay --all` sends, whatever was replayed before, by hand or all together, and failed again."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from streams.letters import DeadLetters, Letter, Rejection, one_of_each, read, replay
from streams.memory import MemoryBroker, MemoryProducer, MemoryTopics
from streams.messages import Partition

TABLE, LETTERS = Partition("t", 0), "letters"
RECORDS = [(b"k", b"bad"), (b"k", b"bad"), (None, b"kbad"), (b"", None), (None, None)]
"""Records that may be mistaken for each other: two are alike, the others nearly."""

STAGES = ("decode", "contract")


class Ground:
    """A topic of which every record is rejected, at a stage that changes from letter to letter."""

    def __init__(self, rejected_twice: bool) -> None:
        self.broker = MemoryBroker({"t": 1, LETTERS: 1})
        self.read_up_to = 0
        self.written = 0
        self.stem: dict[int, int] = {}
        """The record that each offset of the topic is, or repeats."""
        for number, (key, value) in enumerate(RECORDS):
            self.stem[self.broker.append(TABLE, key, value)] = number
        self.reject(again=rejected_twice)

    def reject(self, again: bool = False) -> None:
        letters = DeadLetters(MemoryProducer(self.broker), LETTERS)
        for records in MemoryTopics(self.broker).read("t", self.read_up_to):
            for i in [*range(len(records)), *(range(len(records)) if again else ())]:
                self.written += 1
                letters.send(records, [Rejection(i, STAGES[self.written % 2], ("odd",))], "v1")  # type: ignore[arg-type]
        letters.flush()
        self.read_up_to = len(self.broker.log[TABLE])

    def letters(self) -> list[Letter]:
        return list(read(MemoryTopics(self.broker), LETTERS))

    def replay(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            self.stem[len(self.broker.log[TABLE])] = self.stem[letter.offset]
            assert replay(MemoryProducer(self.broker), [letter]) == 1
        self.reject()


numbers = st.lists(st.integers(0, 40), max_size=4)


@given(st.booleans(), st.lists(st.one_of(numbers, st.none()), max_size=5), st.sampled_from([None, *STAGES]))
def test_each_record_with_a_chosen_letter_is_sent_once(
    rejected_twice: bool, history: list[list[int] | None], stage: str | None
) -> None:
    """None in the history is a `replay --all`, a list some letters by hand."""
    ground = Ground(rejected_twice)
    for named in history:
        letters = ground.letters()
        chosen = one_of_each(ground.letters, lambda _: True) if named is None else iter(letters)
        ground.replay([x for x in chosen if named is None or x.number in named])

    def of_stage(letter: Letter) -> bool:
        return stage in (None, letter.stage)

    sent = list(one_of_each(ground.letters, of_stage))
    wanted = [letter for letter in ground.letters() if of_stage(letter)]
    times = Counter(ground.stem[letter.offset] for letter in sent)
    assert times.keys() == {ground.stem[letter.offset] for letter in wanted}
    for record, count in times.items():
        alike = [letter for letter in wanted if ground.stem[letter.offset] == record]
        never_replayed = all(letter.offset < len(RECORDS) for letter in alike)
        assert count == (len(alike) if never_replayed else 1)
    assert all(of_stage(letter) for letter in sent)
    assert [letter.number for letter in sent] == sorted(letter.number for letter in sent)
