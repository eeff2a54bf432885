"""A reply's reading: what is cancelled stays cancelled, whenever a delta comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.studio.obeying import obeying
from whorl.base.client import Delta
from whorl.base.errors import FaultError
from whorl.base.nouns import Conversation, Message, SamplingParams
from whorl.studio.config import StudioLimits
from whorl.studio.models.pool import ModelPool
from whorl.studio.models.reply import Finished, Reply, _patiently
from whorl.studio.web.markdown import LONGEST, render_markdown, rendered


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


SLOW = "[" * LONGEST  # takes the parser as long as it is let


def test_others_are_answered_while_a_reply_is_rendered() -> None:
    """The loop goes on: a question that comes while the text is rendered is answered before it is there."""
    happened: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        happened.append("answered")
        writer.close()

    async def ask(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"still there?\n")
        assert await reader.readline() == b"still there?\n"
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        asking = asyncio.create_task(ask(server.sockets[0].getsockname()[1]))
        await rendered(SLOW)
        happened.append("rendered")
        await asking
        server.close()

    asyncio.run(main())
    assert happened == ["answered", "rendered"]


def test_what_is_long_to_render_is_shown_as_it_is() -> None:
    for text in (SLOW, "[a](" * 7000, "*a_ " * 7000, "![" * 14_000, "x" * (LONGEST + 1)):
        assert render_markdown(text) == f"<pre>{text}</pre>"
    long = "# Title\n\nSome *words* and `code`, [a link](https://example.org).\n\n- one\n- two\n\n" * 300
    assert len(long) < LONGEST and render_markdown(long).count("<h1>") == 300


def read(text: str, *, stop: bool = False) -> Finished:
    """A real server's reply to `text`, stopped when it has begun to show."""
    ended: list[Finished] = []

    async def keep(finished: Finished) -> dict[str, Any]:
        ended.append(finished)
        return {}

    async def main(address: str) -> None:
        pool = ModelPool(running=2)
        pool.add("model", address)
        asked = Conversation(messages=(Message(role="user", content=(text,)),))
        reply = Reply(model="model", conversation=asked, params=SamplingParams(), keep=keep)
        reply.start(pool, StudioLimits())
        async for _, event in reply.log.follow():
            if stop and event.name == "text" and event.data["html"].count("word") > 3:
                reply.stop()
        await pool.close()

    with obeying() as server:
        asyncio.run(main(server.address))
    return ended[0]


def test_a_stopped_reply_and_a_call_have_their_speed() -> None:
    """Their servers say no count: the pieces are counted, and the page is told that they were."""
    stopped = read("slow 500", stop=True).record(SamplingParams())
    assert stopped["ending"] == "stopped" and stopped["counted"] and stopped["rate"] > 0
    whole = read("slow 5").record(SamplingParams())
    assert whole["tokens"] == 5 and "counted" not in whole
    call = read("call calculator").record(SamplingParams())
    assert call["ending"] == "tool_calls" and call["tokens"] == 9
