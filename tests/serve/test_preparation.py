"""Prompts are prepared apart: what is slow, large or broken ends in one line, and the next is served."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.models.learnt import (
    DARK,
    IMAGES,
    LIGHT,
    SUM,
    TEMPLATE,
    conversation_of,
    learnt_tokenizer,
    save_learnt,
)
from whorl.base.errors import InputError
from whorl.base.nouns import ImagePart
from whorl.base.posix import start_with_socket
from whorl.serve.preparation import Preparers
from whorl.serve.preparer import format_grammar
from whorl.serve.wire import PrepareChat, PrepareText, encode
from whorl.text.images import image_tokens, preprocess

TOKENIZER = learnt_tokenizer()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_learnt(tmp_path_factory.mktemp("prepared") / "model")


def chat(*content: Any, **fields: Any) -> PrepareChat:
    messages = [message.to_openai() for message in conversation_of(*content).messages]
    given: dict[str, Any] = {"messages": messages, "tools": [], "template_args": {}, "tool_choice": "none"}
    return PrepareChat(**(given | fields))


def run(directory: Path, work: Callable[[Preparers], Awaitable[None]], **options: Any) -> None:
    async def inside() -> None:
        preparers = await Preparers.start(directory, **options)
        try:
            await work(preparers)
        finally:
            await preparers.close()

    asyncio.run(asyncio.wait_for(inside(), 120))


def test_prompts_are_those_of_the_trainer(directory: Path) -> None:
    async def work(preparers: Preparers) -> None:
        conversation = conversation_of(LIGHT, "and", DARK, "Shades? <|im_end|>")
        made = await preparers.prepare(chat(LIGHT, "and", DARK, "Shades? <|im_end|>"))
        wanted = TEMPLATE.render(
            conversation, TOKENIZER, reply=True, image_tokens=image_tokens(TOKENIZER, IMAGES)
        )
        assert list(made.ids) == wanted.ids and list(made.image_positions) == wanted.image_positions
        assert made.image_digests == (LIGHT.digest, DARK.digest) and made.template_hash == TEMPLATE.hash
        np.testing.assert_array_equal(made.images[0].pixels, preprocess(LIGHT, IMAGES).pixels)
        text = await preparers.prepare(PrepareText("<|im_end|> hello"))
        assert list(text.ids) == [TOKENIZER.bos_id, *TOKENIZER.encode("<|im_end|> hello")]
        tools = await preparers.prepare(chat("2+3?", tools=list(SUM.tools), tool_choice="required"))
        assert "%json" in tools.grammar
        many = await asyncio.gather(*(preparers.prepare(PrepareText(f"text {n}")) for n in range(100)))
        assert [list(one.ids)[1:] for one in many] == [TOKENIZER.encode(f"text {n}") for n in range(100)]

    run(directory, work, count=2)


def bomb() -> ImagePart:
    file = BytesIO()
    Image.new("L", (9000, 9000)).save(file, "PNG")
    return ImagePart(data=file.getvalue())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (chat(bomb(), "?"), "over the limit"),
        (chat(ImagePart(data=b"no image"), "?"), "not one of PNG"),
        (chat("x", messages=[{"role": "user", "content": 5}]), "content"),
        (chat("x", tools=[{"type": "function"}]), "tools"),
        (chat("x", tools=[{"function": {"name": "f", "parameters": 5}}], tool_choice="required"), "f"),
        (
            chat("x", response_format={"type": "json_schema", "json_schema": {"schema": {"$ref": "#/x"}}}),
            "gramm",
        ),
        (chat("x", regex="("), "grammar"),
        (chat("x", lark="start: nowhere"), "grammar"),
        (chat("x", regex="a", lark="start: /a/"), "mutually exclusive"),
        (chat("x", template_args={"messages": []}), "reserved for the server"),
    ],
    ids=str,
)
def test_what_cannot_be_prepared_is_one_line(directory: Path, asked: PrepareChat, said: str) -> None:
    async def work(preparers: Preparers) -> None:
        with pytest.raises(InputError, match=said) as error:
            await preparers.prepare(asked)
        assert "\n" not in str(error.value) and preparers.replaced == 0
        assert (await preparers.prepare(PrepareText("x"))).ids

    run(directory, work, count=1)


DEEP: Any = {}
for _ in range(200):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    "given", [{"type": "json_object", "x": 1}, {"type": "text"}, None], ids=["object", "text", "none"]
)
def test_formats_that_are_fine(given: Any) -> None:
    assert bool(format_grammar(given)) == (given is not None and given["type"] != "text")


@pytest.mark.parametrize(
    "schema", [DEEP, False, 5, {"enum": ["x" * 300_000]}], ids=["deep", "false", "5", "large"]
)
def test_schemas_that_are_refused(schema: Any) -> None:
    wrapped = {"type": "json_schema", "json_schema": {"schema": schema}}
    with pytest.raises(InputError, match="JSON schema"):
        format_grammar(wrapped)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
         "longer than 5 s|refuses"),
        ("{% set x = namespace(v='a' * 1000) %}{% for i in range(60) %}{% set x.v = x.v + x.v %}{% endfor %}",
         "characters or items"),
        ("{{ messages[0].content.__class__ }}{{ raise_exception('not today') }}", "not today|unsafe"),
    ],
    ids=["slow", "large", "refuses"],
)  # fmt: skip
def test_a_template_that_wastes_time_is_stopped_and_the_next_request_served(
    directory: Path, tmp_path: Path, source: str, said: str
) -> None:
    hostile = tmp_path / "hostile"
    shutil.copytree(directory, hostile)
    (hostile / "chat_template.jinja").write_text(
        "{% if messages[0].content == 'evil' %}" + source + "{% else %}fine{% endif %}"
    )

    async def work(preparers: Preparers) -> None:
        with pytest.raises(InputError, match=said):
            await preparers.prepare(chat("evil"))
        assert (await preparers.prepare(chat("good"))).ids

    run(hostile, work, count=1, timeout=5.0)


def test_one_that_works_leaves_with_its_server(directory: Path, tmp_path: Path) -> None:
    """Its terminal's signals pass it by, and it reads nothing while it works."""
    hostile = tmp_path / "hostile"
    shutil.copytree(directory, hostile)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (hostile / "chat_template.jinja").write_text(
        "{% if messages[0].content == 'evil' %}" + loops + "{% endif %}fine"
    )
    words = [sys.executable, "-m", "whorl.serve.preparer", "{socket}", str(hostile)]
    process, ours = start_with_socket(words)
    with ours:
        ours.sendall(encode(chat("evil")))
        deadline = time.monotonic() + 60
        while psutil.Process(process.pid).cpu_times().user < 2:  # it has started, and works
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_the_process_has_no_torch(directory: Path) -> None:
    program = "import sys, whorl.serve.preparer; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert json.loads((directory / "config.json").read_text())["model_type"] == "llava"
