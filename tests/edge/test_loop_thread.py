"""A thread of its own is begun again whenever what it serves ends, and ends when it is told to, whenever that is."""

import asyncio
import threading

from tests.coordinator.test_channel import until

from finetune_operator.edge.loop_thread import LoopThread


async def test_what_ends_or_fails_is_begun_again_in_another_thread(caplog) -> None:
    threads: list[int] = []

    async def serve(flag: asyncio.Event) -> None:
        threads.append(threading.get_ident())
        if len(threads) == 1:
            raise LookupError("a fault of kopf")
        if len(threads) > 2:
            await flag.wait()

    thread = LoopThread("job feed", restart_seconds=0.01)
    assert not thread.is_alive
    thread.start(serve)
    await until(lambda: len(threads) == 3)
    assert thread.is_alive
    await thread.stop()
    assert not thread.is_alive
    assert (len(threads), threading.get_ident() in threads) == (3, False)
    assert "the job feed ended and is started again" in caplog.text
    assert "a fault of kopf" in caplog.text


async def test_it_can_be_stopped_before_it_began_and_between_two_beginnings() -> None:
    async def serve(flag: asyncio.Event) -> None:
        return

    await LoopThread("x", restart_seconds=60.0).stop()
    thread = LoopThread("x", restart_seconds=60.0)
    thread.start(serve)
    await until(lambda: thread._current is None)
    await asyncio.wait_for(thread.stop(), 30)
    assert not thread.is_alive
