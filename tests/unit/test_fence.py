"""A head that was paused answers nothing before it knows that it still is the head."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from stages.fence import LIMIT_S, Fence

SHORT_S = LIMIT_S / 2
LONG_S = LIMIT_S * 4
WAIT_S = 5.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Controller:
    """Keeps every question until the test answers it."""

    def __init__(self) -> None:
        self.questions: list[asyncio.Future[bool]] = []
        self.was_asked = asyncio.Event()

    async def __call__(self) -> bool:
        self.questions.append(asyncio.get_running_loop().create_future())
        self.was_asked.set()
        return await self.questions[-1]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def controller() -> AsyncIterator[Controller]:
    controller = Controller()
    yield controller
    for question in controller.questions:
        question.cancel()


@pytest.fixture
async def fence(clock: Clock, controller: Controller) -> Fence:
    return Fence(controller, clock=clock)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def passes(fence: Fence) -> bool:
    async with asyncio.timeout(WAIT_S):
        return await fence.passes()


async def test_short_pauses_ask_nobody(fence: Fence, clock: Clock, controller: Controller) -> None:
    for _ in range(20):
        clock.now_s += SHORT_S
        assert await passes(fence)
    assert controller.questions == []


async def test_a_pause_asks_once_and_answers_wait_for_the_word(
    fence: Fence, clock: Clock, controller: Controller
) -> None:
    clock.now_s += LONG_S
    waiting = [asyncio.create_task(fence.passes()) for _ in range(3)]
    await settle()
    clock.now_s += SHORT_S
    waiting.append(asyncio.create_task(fence.passes()))
    await settle()
    assert len(controller.questions) == 1
    assert not any(task.done() for task in waiting)
    controller.questions[0].set_result(True)
    async with asyncio.timeout(WAIT_S):
        assert await asyncio.gather(*waiting) == [True] * 4


async def test_after_a_yes_nobody_is_asked_until_the_next_pause(
    fence: Fence, clock: Clock, controller: Controller
) -> None:
    for pauses in (1, 2):
        clock.now_s += LONG_S
        task = asyncio.create_task(fence.passes())
        await settle()
        assert len(controller.questions) == pauses
        controller.questions[-1].set_result(True)
        assert await task
        assert await passes(fence)
        assert len(controller.questions) == pauses


async def test_no_stays_no(fence: Fence, clock: Clock, controller: Controller) -> None:
    clock.now_s += LONG_S
    task = asyncio.create_task(fence.passes())
    await settle()
    controller.questions[0].set_result(False)
    assert not await task
    for _ in range(5):
        clock.now_s += SHORT_S
        assert not await passes(fence)
    assert len(controller.questions) == 1


async def test_who_gives_up_waiting_takes_the_question_from_nobody_else(
    fence: Fence, clock: Clock, controller: Controller
) -> None:
    clock.now_s += LONG_S
    one, other = asyncio.create_task(fence.passes()), asyncio.create_task(fence.passes())
    await settle()
    one.cancel()
    await settle()
    controller.questions[0].set_result(True)
    assert await other
    assert len(controller.questions) == 1


async def test_a_yes_from_before_a_second_pause_is_not_enough(
    fence: Fence, clock: Clock, controller: Controller
) -> None:
    """The word came in while the process was stopped again: meanwhile another node may lead."""
    clock.now_s += LONG_S
    waiting = asyncio.create_task(fence.passes())
    await settle()
    clock.now_s += LONG_S
    later = asyncio.create_task(fence.passes())
    await settle()
    assert len(controller.questions) == 2
    controller.questions[0].set_result(True)
    await settle()
    assert not waiting.done()
    assert not later.done()
    controller.questions[1].set_result(False)
    async with asyncio.timeout(WAIT_S):
        assert await asyncio.gather(waiting, later) == [False, False]


async def test_a_pause_is_seen_by_the_watch_before_anybody_wants_to_answer(
    fence: Fence, clock: Clock, controller: Controller
) -> None:
    watch = asyncio.create_task(fence.run())
    try:
        await settle()
        clock.now_s += LONG_S
        async with asyncio.timeout(WAIT_S):
            await controller.was_asked.wait()
        assert len(controller.questions) == 1
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def test_a_connection_that_was_lost_asks_and_closes_the_fence(fence: Fence, controller: Controller) -> None:
    assert fence.is_open()
    fence.doubt()
    assert not fence.is_open()
    waiting = asyncio.create_task(fence.passes())
    await settle()
    fence.doubt()  # it is there again: what was asked before may have been answered before
    await settle()
    controller.questions[0].set_result(True)
    await settle()
    assert not waiting.done()
    controller.questions[1].set_result(True)
    assert await waiting
    assert fence.is_open()


async def test_a_pause_between_the_word_and_the_socket_is_seen(
    fence: Fence, clock: Clock, controller: Controller
) -> None:
    assert await passes(fence)
    clock.now_s += LONG_S
    assert not fence.is_open()
    await settle()
    assert len(controller.questions) == 1


async def test_a_closed_fence_lets_nothing_pass_whatever_the_controller_says(
    clock: Clock, controller: Controller, fence: Fence
) -> None:
    clock.now_s += LONG_S
    waiting = asyncio.create_task(fence.passes())
    await controller.was_asked.wait()
    fence.close()
    controller.questions[-1].set_result(True)
    assert not await waiting
    assert not await fence.passes()
    assert not fence.is_open()
