"""A thread with an event loop of its own that is begun again whenever what it serves ends, until it is stopped."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from finetune_operator.times import THREAD_STOP_SECONDS

log = logging.getLogger(__name__)
Serve = Callable[[asyncio.Event], Coroutine[Any, Any, None]]  # ends soon after the event is set


class LoopThread:
    """`restart_seconds`: between an end and the next beginning."""

    def __init__(self, name: str, *, restart_seconds: float) -> None:
        self._name, self._restart_seconds = name, restart_seconds
        self._stopping = threading.Event()
        self._current: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, serve: Serve) -> None:
        self._thread = threading.Thread(target=self._run, args=(serve,), name=self._name, daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End what is served and wait for the thread."""
        self._stopping.set()
        if self._current is not None:
            loop, flag = self._current
            loop.call_soon_threadsafe(flag.set)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, THREAD_STOP_SECONDS)

    def _run(self, serve: Serve) -> None:
        while not self._stopping.is_set():
            try:
                asyncio.run(self._serve(serve))
            except Exception:  # the border that must not die
                log.warning("the %s ended and is started again", self._name, exc_info=True)
            self._stopping.wait(self._restart_seconds)

    async def _serve(self, serve: Serve) -> None:
        flag = asyncio.Event()
        self._current = (asyncio.get_running_loop(), flag)
        try:
            if not self._stopping.is_set():
                await serve(flag)
        finally:
            self._current = None
