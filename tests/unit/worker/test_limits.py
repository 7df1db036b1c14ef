"""Slots that several event loops share."""

from __future__ import annotations

import asyncio
import threading

from anyarch.worker.limits import SharedSlots


def test_loops_share_slots_and_never_pass_the_limit() -> None:
    slots = SharedSlots(2)
    lock = threading.Lock()
    running = most = done = 0

    async def hold() -> None:
        nonlocal running, most, done
        async with slots:
            with lock:
                running += 1
                most = max(most, running)
            await asyncio.sleep(0.001)
            with lock:
                running -= 1
                done += 1

    async def many() -> None:
        await asyncio.gather(*(hold() for _ in range(20)))

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done) == (2, 80)


def test_who_gives_up_while_waiting_takes_no_slot_along() -> None:
    async def work() -> None:
        slots = SharedSlots(1)

        async def use() -> None:
            async with slots:
                pass

        for turns in range(6):  # cancelled before, while, and after it is given the slot
            async with slots:
                waiting = asyncio.ensure_future(use())
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            async with slots:
                given_up = asyncio.ensure_future(use())
                await asyncio.sleep(0)
                given_up.cancel()
                await asyncio.wait([given_up])
            async with asyncio.timeout(5):
                await use()

    asyncio.run(work())
