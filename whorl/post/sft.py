"""Chat training: a model directory and chats in, an assistant (or an adapter) out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from whorl.base.errors import DataError, InputError
from whorl.base.files import sha256_file, sha256_json
from whorl.base.logbook import Logbook
from whorl.base.nouns import Conversation
from whorl.base.posix import keep_freed_memory
from whorl.base.progress import say
from whorl.data.batch import Sample
from whorl.data.loader import SampleBatches
from whorl.models.adapter import save_adapter
from whorl.models.decoder import Decoder
from whorl.models.directory import load, model_directory, save_state
from whorl.models.lora import inject
from whorl.models.weights import weight_version
from whorl.parallel.group import Group
from whorl.parallel.launch import EXIT_RESUME
from whorl.parallel.wrap import gather_state
from whorl.post.config import SftConfig
from whorl.post.preview import preview
from whorl.post.samples import chat_samples
from whorl.text.config import ImageConfig
from whorl.text.default_template import TOKENS
from whorl.text.images import load_processor
from whorl.text.records import read_conversations
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer
from whorl.train.config import TrainConfig
from whorl.train.loop import TrainState, fit
from whorl.train.objectives import next_token

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class _Start:
    """What the model directory brought."""

    model: Decoder
    tokenizer: Tokenizer
    template: ChatTemplate
    images: ImageConfig | None


def sft(config: SftConfig) -> TrainState:
    """Train as `config` says in runs/<name>; called by every rank, or by one process.

    Started again, it goes on from its last checkpoint. At the end runs/<name>/model is a Hugging Face
    directory, or runs/<name>/adapter a PEFT one. The state's `left` names the signal it left on.
    """
    keep_freed_memory()
    group = Group.current()
    run = Path(config.runs) / config.name
    start = _start(config)
    training, held_out = _samples(config, start)
    batches = SampleBatches(
        training, length=config.length, micro_batches=config.micro_batches, seed=config.train.seed
    )
    validation = (
        SampleBatches(held_out, length=config.length, micro_batches=1, seed=0).in_order() if held_out else []
    )
    train = _train_config(config, batches)
    started = time.time()
    with Logbook(run) if group.rank == 0 else Logbook.null() as logbook:
        data = {chats: _hash(Path(chats)) for chats in config.chats}
        logbook.config(config, data | {"model": weight_version(model_directory(config.model))})
        state = fit(start.model, batches, next_token, train, logbook, validation=validation)
        seconds = time.time() - started
        if state.left:
            logbook.event("finish", reason="signal", step=state.step, seconds=seconds)
            return state
        _export(config, start, run, state, logbook, group)
        if validation:
            logbook.event("result", name="validation loss", value=state.validation_loss, unit="nats a token",
                          cases=len(held_out), lower_is_better=True)  # fmt: skip
        logbook.event("finish", step=state.step, seconds=seconds)
    return state


def sft_rank(config: str) -> int | None:
    """`sft` as `launch` calls it: the configuration as JSON in, an exit code out."""
    return EXIT_RESUME if sft(SftConfig.model_validate_json(config)).left else None


def _start(config: SftConfig) -> _Start:
    directory = model_directory(config.model)
    model = load(directory, dtype=torch.float32)
    tokenizer = Tokenizer.load(directory)
    template = _template(directory, tokenizer).with_args(**config.template_args)
    tokenizer.end_ids = tuple(dict.fromkeys((*template.end_ids(tokenizer), *tokenizer.end_ids)))
    images = load_processor(directory) if model.config.vision is not None else None
    if config.lora is not None:
        inject(model, config.lora, seed=config.train.seed)
    return _Start(model, tokenizer, template, images)


def _template(directory: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The directory's template, or ours where there is none and the tokenizer has its control tokens."""
    has_one = (
        any((directory / name).exists() for name in TEMPLATE_FILES) or "chat_template" in tokenizer.config
    )
    if has_one:
        return ChatTemplate.load(directory)
    missing = [token for token in TOKENS if not tokenizer.has(token)]
    if missing:
        raise InputError(
            f"{directory} has no chat template, and its tokenizer lacks {', '.join(missing)} for Whorl's own;"
            f" put its chat_template.jinja into {directory}"
        )
    say(f"{directory} has no chat template: it gets Whorl's own")
    return ChatTemplate.default()


def _samples(config: SftConfig, start: _Start) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out samples; equal conversations are on one side."""
    conversations = [chat for place in config.chats for chat in read_conversations(place)]
    if not conversations:
        raise DataError(f"{', '.join(config.chats)}: no conversations in it; give files of chats")
    limit = min(config.length + 1, start.model.config.context, config.max_length or config.length + 1)
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for chat in conversations:
        sides[_held_out(chat, config.validation)].append(chat)
    if not sides[0]:
        raise DataError("every conversation is held out; lower validation")
    made = []
    for side in sides:
        samples, report = chat_samples(
            side, start.tokenizer, start.template, image_config=start.images, max_length=limit,
            too_long="drop" if side is sides[1] and config.too_long == "stop" else config.too_long,
        )  # fmt: skip
        if side is sides[0]:
            preview(samples, report, start.tokenizer)
        made.append(samples)
    if not made[0]:
        raise DataError(f"no conversation fits {limit} tokens; raise length or max_length, or --too-long cut")
    return made[0], made[1]


def _held_out(chat: Conversation, share: float) -> bool:
    """A property of the conversation's content alone."""
    content = [message.to_openai() for message in chat.messages]
    return int(sha256_json(content)[:16], 16) < share * 2**64


def _train_config(config: SftConfig, batches: SampleBatches) -> TrainConfig:
    steps = config.train.steps or max(1, round(config.epochs * batches.per_epoch / config.micro_batches))
    return TrainConfig.model_validate(config.train.model_dump() | {"steps": steps})


def _hash(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return sha256_json([sha256_file(file) for file in files])


def _export(
    config: SftConfig, start: _Start, run: Path, state: TrainState, logbook: Logbook, group: Group
) -> None:
    place = run / ("adapter" if config.lora is not None else "model")
    weights = gather_state(start.model) if config.lora is None else {}  # every rank takes part
    if group.rank == 0:
        if config.lora is not None:
            save_adapter(start.model, place, base_model=str(config.model))
            start.tokenizer.save(place)
            start.template.save(place)
        else:
            save_state(
                start.model.config, weights, place, start.tokenizer, template=start.template,
                images=start.images, family=start.model.family, compute_dtype=start.model.compute_dtype,
            )  # fmt: skip
        version = weight_version(place) if config.lora is None else ""
        logbook.event("exported", path=str(place), weights=version, step=state.step)
        say(f"{place.name}: {place}")
    group.barrier()
