"""`whorl chat [MODEL|URL]`: talk to a model in the terminal."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from whorl.base.client import OpenAIClient
    from whorl.base.nouns import Conversation, ImagePart, Message, SamplingParams
    from whorl.tools.definition import Tool

HELP = """/image FILE  attach this image to the next message     /system TEXT  a system message, from the
start /retry       answer the last message again          /save FILE    the conversation as JSON /tools
on|off|NAME…  offer calculator, clock, lookup (Python's documentation) /new         start a new conversation
/quit"""
MAX_CALLS = 4  # tool calls that one message may lead to


@click.command()
@click.argument("model", metavar="MODEL|URL", default="http://127.0.0.1:8000")
@click.option("--name", default="", help="The model's name on the server; default: the first one served.")
@click.option("--system", default="", metavar="TEXT", help="The system message.")
@click.option("--tools/--no-tools", default=False, help="Offer the built-in tools.")
@click.option("--yes", is_flag=True, help="Run tools without asking first.")
@click.option("--max-tokens", default=1024, show_default=True)
@click.option("--temperature", default=0.7, show_default=True, help="Sampling temperature; 0 = greedy.")
@click.option("--api-key-file", metavar="FILE", help="File whose first line is the API key.")
def command(model: str, **options: Any) -> None:
    """Talk to MODEL: a model directory (served for the duration) or any OpenAI-compatible server's URL.

    Ctrl-C stops a reply; Ctrl-D or /quit to exit. Without a terminal, each line is a message.
    """
    from contextlib import ExitStack

    from whorl.evals.serving import is_address, served

    with ExitStack() as stack:
        address = model if is_address(model) else stack.enter_context(served(model))
        asyncio.run(talk(address, options))


@dataclass
class Talk:
    """A conversation under way."""

    client: OpenAIClient
    params: SamplingParams
    tools: tuple[Tool, ...]
    offered: frozenset[str]  # names of the tools that the model is told of
    ask_first: bool
    messages: list[Message] = field(default_factory=list)
    pictures: list[ImagePart] = field(default_factory=list)
    replying: asyncio.Task[None] | None = None
    lines: Lines = field(default_factory=lambda: Lines())

    def interrupt(self) -> None:
        """Ctrl-C: the reply stops; at the prompt it only says how to leave."""
        if self.replying is not None:
            self.replying.cancel()
        else:
            click.echo("\n(Ctrl-D or /quit to exit)", err=True)

    async def reply(self) -> None:
        self.replying = asyncio.create_task(answer(self))
        try:
            await asyncio.wait({self.replying})
            if not self.replying.cancelled() and (error := self.replying.exception()) is not None:
                raise error
        finally:
            self.replying = None

    def conversation(self) -> Conversation:
        from whorl.base.nouns import Conversation

        schemas = tuple(tool.schema for tool in self.tools if tool.name in self.offered)
        return Conversation(messages=tuple(self.messages), tools=schemas)


async def talk(address: str, options: dict[str, Any]) -> None:
    from whorl.base.client import OpenAIClient
    from whorl.base.keys import read_key
    from whorl.base.nouns import Message, SamplingParams
    from whorl.tools.builtin import calculator_tool, clock_tool, lookup_tool

    params = SamplingParams(max_tokens=options["max_tokens"], temperature=options["temperature"])
    async with OpenAIClient(
        address, model=options["name"], api_key=read_key(options["api_key_file"], "--api-key-file")
    ) as client:
        card = await client.connect()
        tools = (calculator_tool(), clock_tool(), lookup_tool())
        every = frozenset(tool.name for tool in tools)
        state = Talk(client, params, tools, every if options["tools"] else frozenset(), not options["yes"])
        on_interrupt(state.interrupt)
        if options["system"]:
            state.messages.append(Message(role="system", content=(options["system"],)))
        if sys.stdin.isatty():
            click.echo(
                f"{client.model}, weights {str(card.get('weight_version', '?'))[:12]}; /help", err=True
            )
        while (line := await read_message(state.lines)) is not None:
            if line.startswith("/"):
                if not await do(state, line):
                    return
            elif line.strip():
                state.messages.append(Message(role="user", content=(*state.pictures, line)))
                state.pictures = []
                await state.reply()


def on_interrupt(act: Callable[[], None]) -> None:
    """Call `act` in the running loop at Ctrl-C. The loop's own way wakes it whichever thread the signal
    comes to: the one that waits for a line takes it at times, and the loop would sleep on."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, act)
    except NotImplementedError:  # Windows, whose loop wakes by itself
        signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(act))


class Lines:
    """The one reader of standard input. A line that was asked for and is not waited for any more (Ctrl-C at
    a question) is still being read: it answers whatever is asked next."""

    def __init__(self) -> None:
        self._reading: asyncio.Future[str | None] | None = None

    async def ask(self, prompt: str) -> str | None:
        """The next line, None at the end; the prompt is for a terminal alone."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(asyncio.to_thread(_read, prompt))
        elif sys.stdin.isatty():
            click.echo(prompt, nl=False)
        line = await asyncio.shield(self._reading)
        self._reading = None
        return line


def _read(prompt: str) -> str | None:
    try:
        return input(prompt if sys.stdin.isatty() else "")
    except EOFError:
        return None


async def read_message(reader: Lines) -> str | None:
    """A message; a line that ends with a backslash goes on in the next."""
    lines: list[str] = []
    while True:
        text = await reader.ask("  " if lines else "> ")
        if text is None:
            return "\n".join(lines) if lines else None
        if not text.endswith("\\"):
            return "\n".join([*lines, text])
        lines.append(text[:-1])


async def do(state: Talk, line: str) -> bool:
    """A line that begins with a slash; False ends the talk."""
    from whorl.base.errors import WhorlError
    from whorl.base.files import write_json
    from whorl.base.nouns import Message
    from whorl.cli.generate import read_image

    word, _, rest = line.partition(" ")
    try:
        if word == "/quit":
            return False
        if word == "/image" and rest:
            state.pictures.append(read_image(rest.strip()))
        elif word == "/system":
            state.messages = [one for one in state.messages if one.role != "system"]
            state.messages[:0] = [Message(role="system", content=(rest,))] if rest else []
        elif word == "/tools" and rest:
            state.offered = chosen_tools(rest, [tool.name for tool in state.tools])
        elif word == "/new":
            state.messages = [one for one in state.messages if one.role == "system"]
        elif word == "/save" and rest:
            write_json(Path(rest), {"messages": [one.to_openai() for one in state.messages]})
        elif word == "/retry" and any(one.role == "user" for one in state.messages):
            while state.messages[-1].role != "user":
                state.messages.pop()
            state.params = replace(state.params, seed=state.params.seed + 1)
            await state.reply()
        else:
            click.echo(HELP, err=True)
    except WhorlError as error:
        click.echo(f"whorl: {error}", err=True)
    return True


def chosen_tools(words: str, known: list[str]) -> frozenset[str]:
    if words in ("on", "off"):
        return frozenset(known if words == "on" else ())
    chosen = frozenset(words.replace(",", " ").split())
    if unknown := sorted(chosen - set(known)):
        from whorl.base.errors import InputError
        from whorl.base.fields import nearest

        raise InputError(f"there is no tool {unknown[0]!r}{nearest(unknown[0], known)}")
    return chosen


async def answer(state: Talk) -> None:
    """Let the model answer, running the tools it calls; what fails is said, and the talk goes on."""
    from whorl.base.errors import WhorlError

    known = {tool.name: tool for tool in state.tools}
    try:
        for _ in range(MAX_CALLS + 1):
            message = await stream(state)
            if message is None:
                return
            state.messages.append(message)
            if not message.tool_calls:
                return
            if not await run_calls(state, message, known):
                return
    except WhorlError as error:
        click.echo(f"whorl: {error}", err=True)
        if state.messages and state.messages[-1].role == "user":
            state.messages.pop()


async def run_calls(state: Talk, message: Message, known: dict[str, Tool]) -> bool:
    """Run what the last message calls. Where not all of it ran (a "no", or Ctrl-C) the message goes too: a
    call without its result is no conversation that a model could go on with."""
    from whorl.tools.loop import answer as run_tool

    results: list[Message] = []
    try:
        for call in message.tool_calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            click.secho(f"  {call.name}({arguments})", dim=True, err=True)
            if state.ask_first and not await allowed(state.lines):
                return False
            result = await asyncio.to_thread(run_tool, call, known)
            click.secho(f"  → {result.text}", dim=True, err=True)
            results.append(result)
    finally:
        if len(results) == len(message.tool_calls):
            state.messages += results
        else:
            state.messages.pop()
    return True


async def allowed(lines: Lines) -> bool:
    if not sys.stdin.isatty():
        return False
    while (said := await lines.ask("  run it? [Y/n]: ")) is not None:
        if said.strip().lower() in ("", "y", "yes"):
            return True
        if said.strip().lower() in ("n", "no"):
            return False
        click.echo("  y or n", err=True)
    return False


async def stream(state: Talk) -> Message | None:
    """One reply, shown as it comes; Ctrl-C stops it, and what came stays."""
    from whorl.base.client import ReplySoFar

    reply, begun = ReplySoFar(), time.perf_counter()
    deltas = state.client.chat(state.conversation(), state.params)
    task = asyncio.current_task()
    pieces, tokens, stopped = 0, 0, False
    try:
        async for delta in deltas:
            if delta.reasoning:
                click.secho(delta.reasoning, nl=False, dim=True)
            if delta.content:
                click.echo(delta.content, nl=False)
                pieces += 1
            tokens = delta.tokens or tokens
            reply.add(delta)
    except asyncio.CancelledError:
        if task is not None:
            task.uncancel()
        click.echo(" …", nl=False)
        stopped = True
    finally:
        await deltas.aclose()
    click.echo()
    count, seconds = tokens or pieces, max(time.perf_counter() - begun, 1e-9)
    if sys.stdin.isatty():
        click.secho(
            f"  {count / seconds:.0f} tokens/s, weights {reply.weight_version[:12]}", dim=True, err=True
        )
    message = reply.message()
    if stopped and message.tool_calls:  # nobody who stops a reply wants its calls run
        message = replace(message, tool_calls=())
    return message if message.content or message.tool_calls else None
