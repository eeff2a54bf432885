"""A model that answers conversations: render, generate, parse. `whorl.tools.converse` takes its `reply`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from whorl.base.errors import InputError
from whorl.base.nouns import Conversation, ImagePart, Message, SamplingParams, Trace
from whorl.models.decoder import Decoder
from whorl.models.generation import TOKEN_BUDGET, Generated, Prompt, generate
from whorl.text.images import ImageConfig, Patches, image_tokens, preprocess
from whorl.text.render import ImageTokens
from whorl.text.reply import parse_reply
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer


class Assistant:
    """`model` with all it takes to talk to it. `weight_version` is written into every trace."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        image_config: ImageConfig | None = None,
        params: SamplingParams | None = None,
        *,
        weight_version: str = "",
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.image_config, self.params = image_config, params or SamplingParams()
        self.weight_version, self.token_budget = weight_version, token_budget
        self.end_ids = template.end_ids(tokenizer)

    def reply(
        self, conversations: list[Conversation], *, watch: Callable[[int, int], None] | None = None
    ) -> list[Trace]:
        """One reply to each conversation, all in one batch.

        A conversation's random numbers come from the seed and its id (without one, its place in the
        batch), so that its neighbours do not matter. `watch(index, token)` sees every token as it
        comes. A tool call that is no valid JSON stays text. Raises InputError for a conversation
        that is too long or has images the model cannot see, DataError where the template refuses it.
        """
        prompts, opened = [], []
        patches: dict[str, Patches] = {}  # an image that comes again is decoded once
        seen: Counter[str] = Counter()
        for index, conversation in enumerate(conversations):
            expand = self._image_tokens(conversation)
            rendered = self.template.render(conversation, self.tokenizer, reply=True, image_tokens=expand)
            name = conversation.id or f"number {index}"
            prompts.append(
                Prompt(
                    rendered.ids,
                    [self._patches(image, patches) for image in conversation.images],
                    rendered.image_positions,
                    _number(name, seen[name]),
                )
            )
            seen[name] += 1
            opened.append(rendered.text.rstrip().endswith("<think>"))
        replies = generate(
            self.model,
            prompts,
            self.params,
            end_ids=self.end_ids,
            stopped=self._stopped if self.params.stop else None,
            watch=watch,
            token_budget=self.token_budget,
        )
        return [
            self._trace(prompt, reply, thinking)
            for prompt, reply, thinking in zip(prompts, replies, opened, strict=True)
        ]

    def _image_tokens(self, conversation: Conversation) -> ImageTokens | None:
        if not conversation.images:
            return None
        vision = self.model.config.vision
        if self.image_config is None or vision is None:
            raise InputError(
                f"{_named(conversation)} has images, but the model is text-only; use a multimodal one"
            )
        if self.image_config.patch_size != vision.patch_size:
            raise InputError(
                f"images are cut into patches of {self.image_config.patch_size}, but the model's vision tower"
                f" takes {vision.patch_size}; set patch_size in preprocessor_config.json to that"
            )
        return image_tokens(self.tokenizer, self.image_config)

    def _patches(self, image: ImagePart, known: dict[str, Patches]) -> Patches:
        assert self.image_config is not None  # `_image_tokens` has refused images otherwise
        if image.digest not in known:
            known[image.digest] = preprocess(image, self.image_config)
        return known[image.digest]

    def _stopped(self, ids: list[int]) -> bool:
        text = self.tokenizer.decode(ids)
        return any(stop in text for stop in self.params.stop)

    def _trace(self, prompt: Prompt, reply: Generated, thinking: bool) -> Trace:
        ids = reply.ids
        content = ids[:-1] if ids[-1] in self.end_ids else ids
        message = parse_reply(content, self.tokenizer, thinking=thinking)
        return Trace(
            message=self._cut(message),
            prompt_ids=tuple(prompt.ids),
            token_ids=ids,
            logprobs=reply.logprobs,
            finish=reply.finish,
            sampling=self.params,
            weight_version=self.weight_version,
            template_hash=self.template.hash,
            tokenizer_hash=self.tokenizer.hash,
        )

    def _cut(self, message: Message) -> Message:
        """The message up to the first stop string; its tokens stay whole in the trace."""
        text = message.text
        at = min((text.index(stop) for stop in self.params.stop if stop in text), default=len(text))
        return message if at == len(text) else replace(message, content=(text[:at],) if at else ())


def _named(conversation: Conversation) -> str:
    return f"conversation {conversation.id!r}" if conversation.id else "conversation"


def _number(name: str, copy: int) -> int:
    """Which random numbers a conversation draws: by its name, not by its place in the batch, so that
    neighbours do not matter; copies of one name draw differently."""
    return int.from_bytes(hashlib.sha256(f"{name}\0{copy}".encode()).digest()[:8], "little")
