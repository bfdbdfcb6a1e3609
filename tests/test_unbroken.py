"""What is done to its end, whoever gives up waiting for it."""

import asyncio

import pytest

from pointsman.generation.unbroken import ended


async def test_a_task_is_done_before_who_waits_for_it_is_cancelled() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        await go_on.wait()
        return "done"

    task = asyncio.create_task(work())
    waiting = asyncio.create_task(ended(task))
    await begun.wait()
    for _ in range(3):
        waiting.cancel()
        await asyncio.sleep(0)
    assert not waiting.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert task.result() == "done"


async def test_after_its_grace_a_task_is_cancelled_once_and_cleans_up() -> None:
    begun = asyncio.Event()
    steps: list[int] = []

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            for step in range(3):
                await asyncio.sleep(0.01)
                steps.append(step)

    task = asyncio.create_task(work())
    waiting = asyncio.create_task(ended(task, grace_s=0.01))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert task.cancelled()
    assert steps == [0, 1, 2]
