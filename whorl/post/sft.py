"""Chat training: a model directory and chats in, an assistant (or an adapter) out."""

from __future__ import annotations

import time
from pathlib import Path

from whorl.base.errors import DataError
from whorl.base.files import sha256_input, sha256_json
from whorl.base.logbook import Logbook
from whorl.base.nouns import Conversation
from whorl.base.posix import keep_freed_memory
from whorl.data.batch import Sample
from whorl.data.loader import SampleBatches
from whorl.models.lora import inject
from whorl.models.place import model_directory
from whorl.models.weights import weight_version
from whorl.parallel.group import Group
from whorl.parallel.launch import EXIT_RESUME
from whorl.post.config import SftConfig
from whorl.post.preview import preview
from whorl.post.samples import chat_samples
from whorl.post.start import Start, export, open_start, train_config
from whorl.text.records import read_conversations
from whorl.train.checkpoint import check_resumable
from whorl.train.loop import TrainState, fit
from whorl.train.objectives import next_token


def sft(config: SftConfig) -> TrainState:
    """Train as `config` says in runs/<name>; called by every rank, or by one process.

    Started again, it goes on from its last checkpoint. At the end runs/<name>/model is a Hugging Face
    directory, or runs/<name>/adapter a PEFT one. The state's `left` names the signal it left on.
    """
    keep_freed_memory()
    group = Group.current()
    run = Path(config.runs) / config.name
    start = open_start(config.model, config.template_args)
    if config.lora is not None:
        inject(start.model, config.lora, seed=config.train.seed)
    training, held_out = _samples(config, start)
    batches = SampleBatches(
        training, length=config.length, micro_batches=config.micro_batches, seed=config.train.seed
    )
    validation = (
        SampleBatches(held_out, length=config.length, micro_batches=1, seed=0).in_order() if held_out else []
    )
    train = train_config(config.train, config.epochs, batches)
    check_resumable(run, batches.fingerprint, start.model)
    started = time.time()
    with Logbook(run) if group.rank == 0 else Logbook.null() as logbook:
        data = {chats: sha256_input(chats) for chats in config.chats}
        logbook.config(config, data | {"model": weight_version(model_directory(config.model))})
        state = fit(start.model, batches, next_token, train, logbook, validation=validation)
        seconds = time.time() - started
        if state.left:
            logbook.event("finish", reason="signal", step=state.step, seconds=seconds)
            return state
        export(start, config.model, run, state, logbook, group, adapter=config.lora is not None)
        if validation:
            logbook.event(
                "result", name="validation loss", value=state.validation_loss, unit="nats per token",
                cases=len(held_out), lower_is_better=True,
            )  # fmt: skip
        logbook.event("finish", step=state.step, seconds=seconds)
    return state


def sft_rank(config: str) -> int | None:
    """`sft` as `launch` calls it: the configuration as JSON in, an exit code out."""
    return EXIT_RESUME if sft(SftConfig.model_validate_json(config)).left else None


def _samples(config: SftConfig, start: Start) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out samples; equal conversations are on one side."""
    conversations = [chat for place in config.chats for chat in read_conversations(place)]
    if not conversations:
        raise DataError(f"{', '.join(config.chats)}: contains no conversations; give files of chats")
    limit = min(config.length + 1, start.model.config.context, config.max_length or config.length + 1)
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for chat in conversations:
        sides[held_out_by(chat, config.validation)].append(chat)
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


def held_out_by(chat: Conversation, share: float) -> bool:
    """Whether it is held out: a property of the conversation's content alone."""
    content = [message.to_openai() for message in chat.messages]
    return int(sha256_json(content)[:16], 16) < share * 2**64
