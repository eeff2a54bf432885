"""A reply's reading: what is cancelled stays cancelled, whenever a delta comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from whorl.base.client import Delta
from whorl.base.errors import FaultError
from whorl.studio.config import StudioLimits
from whorl.studio.models.reply import _patiently


@pytest.mark.parametrize("steps", range(6))
def test_a_stop_beside_a_delta_is_a_stop(steps: int) -> None:
    """The delta is there, and the loop is `steps` turns on its way to whoever reads it."""

    async def main() -> None:
        come = asyncio.Event()

        async def deltas() -> AsyncIterator[Delta]:
            while True:
                await come.wait()
                come.clear()
                yield Delta(content="word ")

        async def read() -> None:
            async for _ in _patiently(deltas(), StudioLimits()):
                pass

        task = asyncio.create_task(read())
        for _ in range(5):
            await asyncio.sleep(0)
        come.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert task in done and task.cancelled()

    asyncio.run(main())


def test_silence_has_an_end() -> None:
    async def main() -> None:
        async def deltas() -> AsyncIterator[Delta]:
            yield Delta(content="word ")
            await asyncio.sleep(60)

        heard = []
        with pytest.raises(FaultError, match=r"said nothing for 0\.05 s"):
            async for delta in _patiently(deltas(), StudioLimits(silence_seconds=0.05)):
                heard.append(delta)
        assert len(heard) == 1

    asyncio.run(main())
