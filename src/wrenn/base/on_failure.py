"""Undo what was done when the rest fails: one step. For several steps, see `undo.py`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager


@contextmanager
def on_failure(step: Callable[[], object]) -> Generator[None]:
    """Call `step` if the block raises anything, cancellation included."""
    with ExitStack() as stack:
        stack.callback(step)
        yield
        stack.pop_all()


@asynccontextmanager
async def on_failure_await(step: Callable[[], Awaitable[object]]) -> AsyncGenerator[None]:
    """Await what `step` returns if the block raises anything, cancellation included."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(step)
        yield
        stack.pop_all()
