"""How far a session is behind: counted in bytes and in the engine's time, and back at nothing when all is done."""

from hypothesis import given
from hypothesis import strategies as st

from dia2stream.conversation.outbox import Outbox
from dia2stream.engine.backlog import MAX_BYTES, MAX_SECONDS, Backlog, OrderSeconds
from dia2stream.engine.orders import CLOSE, STAND_STILL
from dia2stream.errors import CommandError
from dia2stream.protocol.messages import Error, Inject, Listen, Paused, Resume, Start

ORDERS = [
    Start("Hello.", say={"GIF": "jiff"}),
    Inject("x" * 5000),
    Listen("AAAA" * 500),
    Resume(),
    CommandError("bad_json", "no"),
    STAND_STILL,
    CLOSE,
]


def test_an_order_takes_as_long_as_the_longest_of_its_kind_of_late() -> None:
    orders = OrderSeconds()
    before = orders.of(Listen)
    assert 0 < before < MAX_SECONDS  # nobody knows yet
    orders.note(Listen(), 0.05)
    orders.note(Listen(), 0.001)
    assert 0.04 < orders.of(Listen) < 0.05
    for _ in range(100):
        orders.note(Listen(), 0.001)
    assert 0.001 <= orders.of(Listen) < 0.0011
    assert orders.of(Resume) == before


def test_few_orders_that_take_long_are_as_much_behind_as_many_that_do_not() -> None:
    outbox, orders = Outbox(4, None), OrderSeconds()
    orders.note(Listen(), MAX_SECONDS / 4)
    orders.note(Resume(), MAX_SECONDS / 40)
    for order, count in ((Listen(), 4), (Resume(), 40)):
        backlog = Backlog(orders.of)
        for _ in range(count - 1):
            backlog.add(order)
        assert backlog.share(outbox) < 1
        backlog.add(order)
        backlog.add(order)
        assert 1 < backlog.share(outbox) < 1.3


def test_so_few_orders_are_on_their_way_that_every_error_finds_room_in_the_outbox() -> None:
    outbox, orders = Outbox(4, None), OrderSeconds()
    orders.note(Resume(), 0.0)
    backlog, error = Backlog(orders.of), Error("no_session", "x" * 500, cmd="resume", id="y" * 64)
    for _ in range(100):
        read = 0
        while backlog.share(outbox) < 1:
            backlog.add(Resume())
            read += 1
        for _ in range(read):  # the engine carries all of them out before anybody takes an answer
            backlog.remove(Resume())
            outbox.answer(error)
    assert outbox.dropped == 0
    assert outbox.answer_bytes > MAX_BYTES  # nothing more is read until some are taken


def test_bytes_count_those_of_commands_and_those_of_answers() -> None:
    outbox, orders = Outbox(4, None), OrderSeconds()
    orders.note(Inject(""), 0.0)
    backlog, text = Backlog(orders.of), Inject("x" * 20_000)
    for _ in range(6):
        backlog.add(text)
    assert 0.4 < backlog.share(outbox) < 0.5
    outbox.answer(Paused(0, "", "x" * (MAX_BYTES // 2)))
    assert 0.9 < backlog.share(outbox) < 1
    outbox.take(0.0)
    assert 0.4 < backlog.share(outbox) < 0.5


@given(st.lists(st.sampled_from(ORDERS)), st.randoms())
def test_what_was_carried_out_in_any_order_leaves_nothing_behind(orders, chance) -> None:
    backlog, outbox = Backlog(OrderSeconds().of), Outbox(4, None)
    shares = [backlog.share(outbox)]
    for order in orders:
        backlog.add(order)
        shares.append(backlog.share(outbox))
    assert shares == sorted(set(shares))
    chance.shuffle(orders)
    for order in orders:
        backlog.remove(order)
    assert backlog.share(outbox) == 0
