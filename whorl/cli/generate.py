"""`whorl generate MODEL PROMPT [--image FILE]…`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from whorl.base.nouns import Conversation, ImagePart, SamplingParams, Trace
    from whorl.models.decoder import Decoder
    from whorl.text.tokenizer import StreamDecoder, Tokenizer

CHAT_FILES = ("chat_template.jinja", "chat_template.json")


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("prompt", metavar="PROMPT")
@click.option(
    "--image", "images", multiple=True, metavar="FILE", help="An image to put before the text; repeatable."
)
@click.option("--chat/--text", default=None,
              help="Answer PROMPT as a chat message, or continue it as text. Default: chat if the model has a"
              " chat template.")  # fmt: skip
@click.option("--system", metavar="TEXT", help="System message (chat only).")
@click.option("--adapter", metavar="DIR", help="A LoRA adapter (a PEFT directory) to apply.")
@click.option("--max-tokens", default=256, show_default=True, help="Maximum number of tokens.")
@click.option("--temperature", default=0.0, show_default=True, help="Sampling temperature; 0 = greedy.")
@click.option(
    "--top-p",
    default=1.0,
    show_default=True,
    help="Sample from the most likely tokens up to this total probability.",
)
@click.option(
    "--top-k", default=0, show_default=True, help="Sample from this many most likely tokens; 0: no limit."
)
@click.option("--seed", default=0, show_default=True, help="Random seed.")
@click.option("--stop", multiple=True, metavar="TEXT", help="Stop at this text; repeatable.")
@click.option("--device", help="cpu, cuda or mps; default: the first that works.")
@click.option("--json", "as_json", is_flag=True, help="Print text, tokens and log-probs as JSON.")
def command(
    model: str,
    prompt: str,
    images: tuple[str, ...],
    chat: bool | None,
    system: str | None,
    adapter: str | None,
    device: str | None,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Generate text with MODEL, a Hugging Face directory, from PROMPT ("-" reads it from stdin).

    This is the reference generator: it has no key-value cache, so long texts are slow.
    """
    from whorl.base.errors import InputError
    from whorl.base.nouns import SamplingParams
    from whorl.kernels.device import choose_device
    from whorl.models.chat import Assistant
    from whorl.models.directory import load
    from whorl.models.place import model_directory
    from whorl.text.images import load_processor
    from whorl.text.template import ChatTemplate
    from whorl.text.tokenizer import Tokenizer

    if prompt == "-":
        prompt = sys.stdin.read()
    directory = model_directory(model)
    # An adapter trained on chats may bring the template it was trained with.
    places = [Path(adapter), directory] if adapter else [directory]
    template_at = next((place for place in places if has_chat_template(place)), directory)
    if chat is None:
        chat = has_chat_template(template_at)
    if not chat and (images or system is not None):
        raise InputError(f"--image and --system need a chat template, but {model} is used as plain text")
    parts = tuple(read_image(path) for path in images)
    params = SamplingParams(**sampling)
    decoder = load(directory, device=choose_device(device), adapter=adapter)
    tokenizer = Tokenizer.load(directory)
    text = tokenizer.stream(skip_control=False)
    watch = None if as_json else show(text, tokenizer)
    if chat:
        template = ChatTemplate.load(template_at)
        images_read = load_processor(directory) if parts else None
        assistant = Assistant(decoder, tokenizer, template, images_read, params)
        trace = assistant.reply([question(prompt, parts, system)], watch=watch)[0]
    else:
        trace = go_on(decoder, tokenizer, prompt, params, watch)
    if as_json:
        click.echo(json.dumps(shown(trace), ensure_ascii=False))
    else:
        click.echo(text.finish())


def has_chat_template(directory: Path) -> bool:
    from whorl.base.files import read_json

    config = directory / "tokenizer_config.json"
    return any((directory / name).is_file() for name in CHAT_FILES) or (
        config.is_file() and bool(read_json(config).get("chat_template"))
    )


def read_image(path: str) -> ImagePart:
    from whorl.base.errors import InputError
    from whorl.base.nouns import ImagePart

    try:
        return ImagePart(data=Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"--image {path} cannot be read: {error.strerror}") from error


def question(prompt: str, images: tuple[ImagePart, ...], system: str | None) -> Conversation:
    from whorl.base.nouns import Conversation, Message

    messages = [] if system is None else [Message(role="system", content=(system,))]
    messages.append(Message(role="user", content=(*images, prompt)))
    return Conversation(messages=tuple(messages))


def go_on(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompt: str,
    params: SamplingParams,
    watch: Callable[[int, int], None] | None,
) -> Trace:
    """The text continued, from the start token where the tokenizer has one, as in training."""
    from whorl.base.nouns import Message, Trace
    from whorl.models.generation import Prompt, generate

    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = [*start, *tokenizer.encode(prompt)]

    def stopped(reply: list[int]) -> bool:
        text = tokenizer.decode(reply)
        return any(stop in text for stop in params.stop)

    reply = generate(
        decoder, [Prompt(ids)], params, end_ids=tokenizer.end_ids,
        stopped=stopped if params.stop else None, watch=watch,
    )[0]  # fmt: skip
    text = tokenizer.decode([number for number in reply.ids if number not in tokenizer.end_ids])
    return Trace(
        message=Message(role="assistant", content=(text,)),
        prompt_ids=tuple(ids),
        token_ids=reply.ids,
        logprobs=reply.logprobs,
        finish=reply.finish,
        sampling=params,
    )


def show(text: StreamDecoder, tokenizer: Tokenizer) -> Callable[[int, int], None]:
    """Writes every token to stdout as it comes; what ends the reply is not shown."""

    def write(_: int, token: int) -> None:
        if token not in tokenizer.end_ids:
            click.echo(text.push(token), nl=False)

    return write


def shown(trace: Trace) -> dict[str, Any]:
    return {
        "message": trace.message.to_openai(),
        "finish": trace.finish,
        "prompt_ids": trace.prompt_ids,
        "token_ids": trace.token_ids,
        "logprobs": trace.logprobs,
    }
