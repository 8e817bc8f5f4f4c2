"""The order in which messages of one session wait."""

from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.mailbox import Mailbox


def test_messages_leave_in_the_order_in_which_they_came() -> None:
    mailbox: Mailbox[int] = Mailbox(3)
    assert all(mailbox.offer(name, number) for number, name in enumerate("abc"))
    assert [mailbox.take(), mailbox.take(), mailbox.take(), mailbox.take()] == [0, 1, 2, None]


def test_a_full_mailbox_takes_no_arrival_and_forgets_none() -> None:
    mailbox: Mailbox[int] = Mailbox(1)
    assert mailbox.offer("a", 1)
    assert not mailbox.offer("b", 2)
    assert mailbox.take_all() == [1]


def test_what_is_no_longer_wanted_is_forgotten_and_the_rest_keeps_its_order() -> None:
    mailbox: Mailbox[int] = Mailbox(4)
    for number, name in enumerate("abcd"):
        mailbox.offer(name, number)
    mailbox.keep(lambda number: number != 1)
    assert mailbox.find("b") is None
    assert mailbox.offer("e", 4)
    assert mailbox.take_all() == [0, 2, 3, 4]


def test_a_batch_goes_before_arrivals_and_beyond_the_limit() -> None:
    mailbox: Mailbox[str] = Mailbox(2)
    mailbox.offer("own-1", "own-1")
    mailbox.offer("own-2", "own-2")
    mailbox.put_first([("b1", "b1"), ("b2", "b2")])
    assert mailbox.take_all() == ["b1", "b2", "own-1", "own-2"]


def test_an_arrival_that_is_in_the_batch_keeps_its_entry_and_takes_the_batchs_place() -> None:
    mailbox: Mailbox[str] = Mailbox(4)
    mailbox.offer("x", "mine")
    mailbox.offer("y", "attached")
    mailbox.put_first([("b", "b"), ("y", "copy")])
    assert mailbox.find("y") == "attached"
    assert mailbox.take_all() == ["b", "attached", "mine"]


@settings(deadline=None)
@given(st.lists(st.one_of(st.tuples(st.just("offer"), st.integers(0, 9)), st.tuples(st.just("take"), st.just(0)),
                          st.tuples(st.just("batch"), st.lists(st.integers(0, 9), unique=True)))))  # fmt: skip
def test_the_mailbox_behaves_like_an_ordered_list_without_repeats(steps: list[tuple[str, object]]) -> None:
    mailbox: Mailbox[int] = Mailbox(5)
    model: OrderedDict[str, int] = OrderedDict()
    for name, value in steps:
        if name == "offer" and str(value) not in model:
            assert isinstance(value, int)
            taken = mailbox.offer(str(value), value)
            assert taken == (len(model) < 5)
            if taken:
                model[str(value)] = value
        elif name == "take":
            expected = model.popitem(last=False)[1] if model else None
            assert mailbox.take() == expected
        elif name == "batch":
            assert isinstance(value, list)
            model = OrderedDict(
                [(str(item), item) for item in value] + [pair for pair in model.items() if pair[1] not in value]
            )
            mailbox.put_first((str(item), item) for item in value)
        assert list(mailbox) == list(model.values())
        assert len(mailbox) == len(model)
