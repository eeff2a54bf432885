"""A conversation as chat-training samples: every reply in the context it will be served in.

Where a template writes earlier turns the same whatever follows, one sample holds all replies. Where
it does not (Qwen3 drops the thinking of earlier turns, Mistral moves the system prompt), each reply
is a sample of its own: the prompt as rendered for serving, then the reply. Either way the tokens
before a reply are, id for id, those the server will feed the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from whorl.base.errors import DataError
from whorl.base.nouns import Conversation, ImagePart, Message
from whorl.text.render import ImageTokens, Layout, Renderer, Tokens
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TrainSample:
    """`mask[i]` is true where `ids[i]` is to be learnt: what the assistant wrote, and the token that
    ends its turn. `image_positions` index `ids`; `replies` are the messages learnt from."""

    ids: list[int]
    mask: list[bool]
    image_positions: list[int]
    images: tuple[ImagePart, ...]
    text: str
    replies: tuple[int, ...]
    id: str = ""


@dataclass(frozen=True)
class Reply:
    """Message `number`: the prompt it is served with, and what the model then writes."""

    number: int
    prompt: Tokens
    ids: list[int]
    mask: list[bool]
    image_positions: list[int]  # within `ids`
    text: str  # of prompt and reply, up to the end of the turn


def train_samples(
    conversation: Conversation,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    image_tokens: ImageTokens | None = None,
    where: str = "",
    **template_args: Any,
) -> list[TrainSample]:
    """The samples of one conversation; at least one.

    `where` names the conversation in errors (`chats.jsonl:12`). DataError: no reply to learn from,
    a reply the template does not write or does not end, or text that its tokens do not give back.
    """
    renderer = Renderer(template, conversation, tokenizer, image_tokens, template_args, where)
    numbers = [at for at, message in enumerate(conversation.messages) if message.role == "assistant"]
    if not numbers:
        raise DataError(
            f"{renderer.where}: no assistant message, so there is nothing to learn; drop the conversation"
        )
    replies = [_reply(renderer, number) for number in numbers]
    whole = _whole(renderer, replies) if len(replies) > 1 else None
    return [whole] if whole is not None else [_alone(renderer, reply) for reply in replies]


def _reply(renderer: Renderer, number: int) -> Reply:
    message = renderer.conversation.messages[number]
    where = f"{renderer.where}: message {number + 1} (assistant)"
    if not (message.text.strip() or message.images or message.tool_calls or message.reasoning):
        raise DataError(f"{where} is empty; drop it or the conversation")
    served = renderer.layout(number, reply=True)
    after = renderer.layout(number + 1, reply=False)
    if not after.marked.startswith(served.marked):
        raise DataError(
            f"{where}: the chat template's generation prompt differs from the header before a given"
            " reply; set template arguments that fit the data (such as enable_thinking) or use"
            " another template"
        )
    rest = renderer.after(served, after)
    _check_written(where, message, rest)
    prompt, full = renderer.tokens(served, checked=True), renderer.tokens(after, checked=True)
    size = len(prompt.ids)
    if full.ids[:size] == prompt.ids:
        tail = Tokens(
            full.ids[size:],
            [start - len(served.text) for start in full.starts[size:]],
            [at - size for at in full.image_positions if at >= size],
        )
    else:  # the tokenizer would merge across the seam; served, the prompt comes without the reply
        tail = renderer.tokens(rest, checked=True)
    end = renderer.until_end(tail.ids)
    if tail.ids[end - 1] not in renderer.ends:
        raise DataError(
            f"{where}: no end token follows the reply, so the model would never learn to stop;"
            " add the template's to eos_token_id in generation_config.json"
        )
    mask = [_learnt(rest, start) for start in tail.starts[:end]]
    mask[-1] = True
    stop = tail.starts[end] if end < len(tail.starts) else len(rest.text)
    return Reply(
        number,
        prompt,
        tail.ids[:end],
        mask,
        [at for at in tail.image_positions if at < end],
        served.text + rest.text[:stop],
    )


def _learnt(rest: Layout, start: int) -> bool:
    return not rest.generated or any(first <= start < last for first, last in rest.generated)


def _check_written(where: str, message: Message, rest: Layout) -> None:
    """DataError where the template leaves out part of what is to be learnt."""
    pieces = [rest.text[start:end] for start, end in rest.generated] or [rest.text]
    written = "".join(pieces)
    parts = [part.strip() for part in message.content if isinstance(part, str)]
    wanted = {"text": parts, "tool call": [call.name for call in message.tool_calls]}
    wanted["reasoning"] = [message.reasoning.strip()] if message.reasoning else []
    for kind, texts in wanted.items():
        if any(text not in written for text in texts):
            raise DataError(
                f"{where}: the chat template does not mark its {kind} as the assistant's; use a"
                " template that does, or remove it from the data"
            )


def _whole(renderer: Renderer, replies: list[Reply]) -> TrainSample | None:
    """One sample for all replies, or None where a prompt or a reply would read differently in it."""
    last = replies[-1]
    ids = last.prompt.ids + last.ids
    mask = [False] * len(ids)
    for reply in replies:
        start = len(reply.prompt.ids)
        end = start + len(reply.ids)
        if ids[:start] != reply.prompt.ids or ids[start:end] != reply.ids:
            return None
        mask[start:end] = reply.mask
    alone = _alone(renderer, last)
    numbers = tuple(reply.number for reply in replies)
    return TrainSample(
        ids, mask, alone.image_positions, alone.images, alone.text, numbers, renderer.conversation.id
    )


def _alone(renderer: Renderer, reply: Reply) -> TrainSample:
    size = len(reply.prompt.ids)
    messages = renderer.conversation.messages[: reply.number + 1]
    return TrainSample(
        reply.prompt.ids + reply.ids,
        [False] * size + reply.mask,
        reply.prompt.image_positions + [size + at for at in reply.image_positions],
        tuple(image for message in messages for image in message.images),
        reply.text,
        (reply.number,),
        renderer.conversation.id,
    )
