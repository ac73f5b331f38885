"""What every back end must do. Subclassed per back end: `make` opens another connection to the same broker."""

from __future__ import annotations

import abc
import asyncio
import gc
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.errors import (
    BrokerClosedError,
    BrokerError,
    NoRespondersError,
    PayloadTooLargeError,
    RequestTimeoutError,
)
from broker.port import Broker, Message
from tests.contract.conftest import WAIT_S, Connect, Inbox

TWO = (
    Message(subject="n.a", data=b"one", reply="r.1"),
    Message(subject="n.b", data=b"two", headers={"Nats-Msg-Id": "2"}),
)
SIZES = [0, 1, 100, 65_535, 65_536, 65_537, 1_048_576, 4_194_304]


def payload(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that differ at every place, so that a shift or a gap shows; with line ends, so that framing is tested."""
    block = bytes((index * 31 + seed) % 256 for index in range(251)) + b"\r\n"
    return (block * (size_bytes // len(block) + 1))[:size_bytes]


class BrokerContract(abc.ABC):
    """`knows_of_listeners`: a request that nobody listens to fails at once; otherwise the tests ask for what comes in
    its place. `clustered`: there are several servers."""

    knows_of_listeners = True
    clustered = False

    @abc.abstractmethod
    def connect(self) -> AsyncIterator[Connect]:
        """A fixture: opens connections to one broker, and closes them all after the test."""

    @pytest.fixture
    async def here(self, connect: Connect) -> Broker:
        return await connect()

    @pytest.fixture
    async def there(self, connect: Connect) -> Broker:
        return await connect()

    async def test_a_connection_tells_whether_its_server_is_one_of_several(self, here: Broker) -> None:
        assert here.clustered == self.clustered

    async def test_a_message_reaches_a_subscriber_on_another_connection(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("a.b", inbox)
        await here.publish("a.b", b"hello", reply="answer.here")
        message = await inbox.next()
        assert (message.subject, bytes(message.data), message.reply) == ("a.b", b"hello", "answer.here")
        assert message.headers == {}

    async def test_a_message_reaches_a_subscriber_on_its_own_connection(self, here: Broker) -> None:
        inbox = Inbox()
        await here.subscribe("a", inbox)
        await here.publish("a", b"hello")
        assert bytes((await inbox.next()).data) == b"hello"

    async def test_what_is_published_right_after_subscribe_always_arrives(self, here: Broker, there: Broker) -> None:
        for number in range(50):
            inbox = Inbox()
            await there.subscribe(f"race.{number}", inbox)
            await here.publish(f"race.{number}", b"x")
            await inbox.next()

    async def test_messages_arrive_in_order_whatever_their_size(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("order.*", inbox)
        sent = [payload(size * 7919 % 200_000, seed=size) for size in range(120)]
        for number, data in enumerate(sent):
            headers = {"number": str(number)} if number % 3 == 0 else None
            await here.publish(f"order.{number % 4}", data, headers=headers)
        received = await inbox.take(len(sent))
        assert [message.subject for message in received] == [f"order.{number % 4}" for number in range(len(sent))]
        assert all(bytes(message.data) == data for message, data in zip(received, sent, strict=True))

    async def test_a_slow_handler_sees_its_messages_one_at_a_time_and_in_order(self, here: Broker) -> None:
        done, seen, running = asyncio.Event(), [], []

        async def slow(message: Message) -> None:
            running.append(1)
            assert len(running) == 1
            await asyncio.sleep(0)
            running.clear()
            seen.append(int(bytes(message.data)))
            if len(seen) == 100:
                done.set()

        await here.subscribe("slow", slow)
        for number in range(100):
            await here.publish("slow", str(number).encode())
        async with asyncio.timeout(WAIT_S):
            await done.wait()
        assert seen == list(range(100))

    @pytest.mark.parametrize("size", SIZES)
    async def test_payloads_of_any_size_arrive_unchanged(self, here: Broker, there: Broker, size: int) -> None:
        inbox = Inbox()
        await there.subscribe("size", inbox)
        data = payload(size)
        await here.publish("size", data)
        await here.publish("size", memoryview(data), headers={"kind": "view"})
        await here.publish("size", b"after")
        first, second, third = await inbox.take(3)
        assert bytes(first.data) == data
        assert bytes(second.data) == data
        assert second.headers == {"kind": "view"}
        assert bytes(third.data) == b"after"

    async def test_the_parts_of_a_payload_are_concatenated(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("parts", inbox)
        tail = payload(300_000)
        await here.publish("parts", [b"head", bytearray(b"-mid-"), memoryview(tail), b""])
        await here.publish("parts", [])
        assert bytes((await inbox.next()).data) == b"head-mid-" + tail
        assert bytes((await inbox.next()).data) == b""

    async def test_a_part_that_is_a_view_of_numbers_counts_in_bytes(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("numbers", inbox)
        numbers: Any = memoryview(payload(80_000)).cast("f", (100, 200))
        await here.publish("numbers", [b"x", numbers])
        assert bytes((await inbox.next()).data) == b"x" + numbers.tobytes()

    @pytest.mark.parametrize("size", [100, 500_000])
    async def test_a_buffer_may_be_written_to_after_publish(self, here: Broker, there: Broker, size: int) -> None:
        inbox = Inbox()
        await there.subscribe("reused", inbox)
        buffer = bytearray(size)
        for number in range(20):
            buffer[:] = bytes([number]) * size
            await here.publish("reused", buffer)
        for number, message in enumerate(await inbox.take(20)):
            assert bytes(message.data) == bytes([number]) * size

    async def test_what_was_received_stays_as_it_is(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("kept", inbox)
        for number in range(30):
            await here.publish("kept", payload(number * 5_000, seed=number))
        received = await inbox.take(30)
        for number, message in enumerate(received):
            assert bytes(message.data) == payload(number * 5_000, seed=number)

    async def test_headers_make_the_round_trip(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("headers", inbox)
        headers = {"Frame-Id": "f-1", "note": "grün: a:b", "empty": ""}
        await here.publish("headers", payload(100_000), headers=headers)
        await here.publish("headers", b"", headers={"only": "this"})
        first, second = await inbox.take(2)
        assert dict(first.headers) == headers
        assert bytes(first.data) == payload(100_000)
        assert (dict(second.headers), bytes(second.data)) == ({"only": "this"}, b"")

    async def test_wildcards_match_one_token_and_the_rest(self, here: Broker, there: Broker) -> None:
        star, rest = Inbox(), Inbox()
        await there.subscribe("w.*.z", star)
        await there.subscribe("w.>", rest)
        for subject in ("w", "w.a", "w.a.z", "w.a.b.z", "w.b.z", "v.a.z"):
            await here.publish(subject, subject.encode())
        await here.publish("w.end.z", b"")
        assert [message.subject for message in await star.take(3)] == ["w.a.z", "w.b.z", "w.end.z"]
        expected = ["w.a", "w.a.z", "w.a.b.z", "w.b.z", "w.end.z"]
        assert [message.subject for message in await rest.take(5)] == expected

    async def test_a_request_gets_its_answer(self, here: Broker, there: Broker) -> None:
        async def double(message: Message) -> None:
            await there.publish(message.reply, [message.data, message.data], headers=dict(message.headers))

        await there.subscribe("double", double)
        big = payload(200_000)
        answers = await asyncio.gather(
            here.request("double", b"ab", timeout_s=5),
            here.request("double", [b"c", b"d"], timeout_s=5, headers={"k": "v"}),
            here.request("double", memoryview(big), timeout_s=5),
        )
        assert [bytes(answer.data) for answer in answers] == [b"abab", b"cdcd", big + big]
        assert answers[1].headers == {"k": "v"}

    async def test_a_request_that_nobody_listens_to_fails_at_once_or_times_out(self, here: Broker) -> None:
        if not self.knows_of_listeners:
            with pytest.raises(RequestTimeoutError, match=r"'void' within 0\.1 s"):
                await here.request("void", b"", timeout_s=0.1)
            return
        with pytest.raises(NoRespondersError, match="nobody listens to 'void'"):
            await here.request("void", b"", timeout_s=5)

    async def test_a_request_that_is_not_answered_times_out(self, here: Broker, there: Broker) -> None:
        await there.subscribe("silent", Inbox())
        with pytest.raises(RequestTimeoutError, match=r"'silent' within 0\.05 s"):
            await here.request("silent", b"", timeout_s=0.05)

    async def test_a_request_that_fails_in_the_moment_in_which_it_is_cancelled_complains_to_nobody(
        self, here: Broker
    ) -> None:
        complaints: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        timeout_s = 5 if self.knows_of_listeners else 0.002
        chance = random.Random(1)

        async def ask(turns: int) -> int:
            """How many turns of the loop it took, until it was cancelled after so many or was over."""
            asking = asyncio.create_task(here.request("void", b"", timeout_s=timeout_s))
            taken = 0
            while taken < turns and not asking.done():
                await asyncio.sleep(0)
                taken += 1
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            return taken

        usual = await ask(10_000_000)
        for _ in range(500):
            await ask(chance.randrange(usual * 6 // 5))
        gc.collect()
        await here.flush()
        assert complaints == []

    async def test_an_answer_can_be_had_by_hand_through_an_inbox_subject(self, here: Broker, there: Broker) -> None:
        answers, subject = Inbox(), here.new_inbox()
        assert subject != here.new_inbox()
        await here.subscribe(subject, answers)
        await there.publish(subject, b"to you")
        assert bytes((await answers.next()).data) == b"to you"

    async def test_an_oversize_payload_is_refused_with_both_numbers_and_harms_nothing(
        self, here: Broker, there: Broker
    ) -> None:
        inbox, limit = Inbox(), here.max_payload_bytes
        await there.subscribe("big", inbox)
        half = bytes(limit // 2 + 1)
        for parts in ([half, half], bytes(limit + 2)):
            with pytest.raises(PayloadTooLargeError) as caught:
                await here.publish("big", parts)
            assert (caught.value.size_bytes, caught.value.limit_bytes) == (limit + 2, limit)
        with pytest.raises(PayloadTooLargeError, match=f"{limit + 2} bytes .* {limit} bytes"):
            await here.request("big", [half, half], timeout_s=1)
        await here.publish("big", b"small")
        assert bytes((await inbox.next()).data) == b"small"

    async def test_a_payload_of_exactly_the_limit_arrives(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("limit", inbox)
        data = payload(here.max_payload_bytes)
        await here.publish("limit", data)
        assert bytes((await inbox.next()).data) == data

    async def test_a_handler_that_raises_keeps_its_subscription(self, here: Broker) -> None:
        inbox = Inbox()

        async def sometimes(message: Message) -> None:
            match bytes(message.data):
                case b"error":
                    raise ValueError("no")
                case b"cancelled":
                    raise asyncio.CancelledError
                case _:
                    await inbox(message)

        await here.subscribe("s", sometimes)
        for data in (b"error", b"1", b"cancelled", b"2"):
            await here.publish("s", data)
        assert [bytes(message.data) for message in await inbox.take(2)] == [b"1", b"2"]

    async def test_nothing_is_delivered_after_unsubscribe(self, here: Broker, there: Broker) -> None:
        gone, stays = Inbox(), Inbox()
        subscription = await there.subscribe("u", gone)
        await there.subscribe("u", stays)
        await subscription.unsubscribe()
        await subscription.unsubscribe()
        await here.publish("u", b"")
        await stays.next()
        assert gone.waiting == 0

    async def test_a_handler_may_unsubscribe_itself(self, here: Broker, there: Broker) -> None:
        seen, all_of_it = Inbox(), Inbox()

        async def once(message: Message) -> None:
            await subscription.unsubscribe()
            await seen(message)

        subscription = await there.subscribe("once", once)
        await there.subscribe("once", all_of_it)
        for _ in range(5):
            await here.publish("once", b"")
        await all_of_it.take(5)
        await there.flush()
        assert seen.waiting == 1

    async def test_a_handler_may_publish_subscribe_and_request(self, here: Broker, there: Broker) -> None:
        async def echo(message: Message) -> None:
            await there.publish(message.reply, message.data)

        done = Inbox()

        async def handler(message: Message) -> None:
            inner = Inbox()
            await here.subscribe("inner", inner)
            await here.publish("inner", b"x")
            answer = await here.request("echo", message.data, timeout_s=5)
            await inner.next()
            await done(answer)

        await there.subscribe("echo", echo)
        await here.subscribe("outer", handler)
        await there.publish("outer", b"data")
        assert bytes((await done.next()).data) == b"data"

    async def test_what_is_published_now_arrives_behind_what_was_published_before(
        self, here: Broker, there: Broker
    ) -> None:
        inbox = Inbox()
        await there.subscribe("n.*", inbox)
        await here.publish("n.a", b"before")
        assert await here.publish_now(TWO, lambda: True)
        await here.publish("n.a", b"after")
        before, one, two, after = await inbox.take(4)
        assert [bytes(message.data) for message in (before, one, two, after)] == [b"before", b"one", b"two", b"after"]
        assert (one.subject, one.reply, two.subject) == ("n.a", "r.1", "n.b")
        assert two.headers == {"Nats-Msg-Id": "2"}

    async def test_where_its_condition_does_not_hold_nothing_is_published_now(
        self, here: Broker, there: Broker
    ) -> None:
        inbox = Inbox()
        await there.subscribe("n.*", inbox)
        assert not await here.publish_now(TWO, lambda: False)
        await here.publish("n.a", b"the end")
        assert bytes((await inbox.next()).data) == b"the end"

    async def test_of_what_is_published_now_all_is_refused_if_one_is_too_large(
        self, here: Broker, there: Broker
    ) -> None:
        inbox = Inbox()
        await there.subscribe("n.*", inbox)
        with pytest.raises(PayloadTooLargeError):
            too_large = Message(subject="n.b", data=bytes(here.max_payload_bytes + 1))
            await here.publish_now([TWO[0], too_large], lambda: True)
        await here.publish("n.a", b"the end")
        assert bytes((await inbox.next()).data) == b"the end"

    async def test_flush_means_that_the_broker_has_everything(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("f", inbox)
        for _ in range(20):
            await here.publish("f", bytes(100_000))
        await here.flush()
        await there.flush()
        await here.close()
        assert len(await inbox.take(20)) == 20

    async def test_what_was_published_before_close_is_sent(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("c", inbox)
        for _ in range(10):
            await here.publish("c", bytes(500_000))
        await here.close()
        assert [len(message.data) for message in await inbox.take(10)] == [500_000] * 10

    async def test_a_closed_connection_refuses_and_may_be_closed_again(self, here: Broker) -> None:
        inbox = Inbox()
        await here.subscribe("x", inbox)
        assert here.connected
        await here.close()
        await here.close()
        assert not here.connected
        for attempt in (
            here.publish("x", b""),
            here.subscribe("x", inbox),
            here.request("x", timeout_s=1),
            here.publish_now(TWO, lambda: True),
            here.flush(),
        ):
            with pytest.raises(BrokerClosedError, match="closed"):
                await attempt

    async def test_no_handler_runs_after_close(self, here: Broker, there: Broker) -> None:
        started, never = asyncio.Event(), asyncio.Event()

        async def stuck(message: Message) -> None:
            started.set()
            await never.wait()

        await here.subscribe("stuck", stuck)
        await there.publish("stuck", b"")
        async with asyncio.timeout(WAIT_S):
            await started.wait()
            await here.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in others if "handler" in repr(task) or "subscription" in repr(task)]

    @pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0\r\n"])
    async def test_a_subject_that_is_none_is_refused(self, here: Broker, subject: str) -> None:
        with pytest.raises(BrokerError, match="not a subject"):
            await here.publish(subject, b"")
        with pytest.raises(BrokerError, match="not a subject"):
            await here.subscribe(subject, Inbox())

    async def test_a_header_cannot_smuggle_in_a_line(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("smuggle", inbox)
        await here.publish("smuggle", b"x", headers={"a": "b\r\nc: d"})
        assert dict((await inbox.next()).headers) == {"a": "b  c: d"}
        with pytest.raises(BrokerError, match="header"):
            await here.publish("smuggle", b"x", headers={"a\r\nb": "c"})

    async def test_many_tasks_publish_at_once_and_nothing_is_mixed_up(self, here: Broker, there: Broker) -> None:
        inbox = Inbox()
        await there.subscribe("many.*", inbox)

        async def publish(number: int) -> None:
            for turn in range(10):
                await here.publish(f"many.{number}", [bytes([number, turn]), payload(number * 9_000, seed=number)])

        await asyncio.gather(*(publish(number) for number in range(20)))
        turns: dict[int, int] = dict.fromkeys(range(20), 0)
        for message in await inbox.take(200):
            number, turn = bytes(message.data[:2])
            assert message.subject == f"many.{number}"
            assert turn == turns[number]
            assert bytes(message.data[2:]) == payload(number * 9_000, seed=number)
            turns[number] += 1
