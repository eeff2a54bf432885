"""Pre-training from a recipe: a run directory with its record, checkpoints and, at the end, the model."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from whorl.base.errors import InputError
from whorl.base.logbook import Logbook
from whorl.base.nouns import SamplingParams
from whorl.base.progress import say
from whorl.data.batch import Batch
from whorl.data.batches import Batches
from whorl.data.loader import MixedBatches, PretrainBatches
from whorl.data.tokenset import TokenSet, open_tokens
from whorl.models.config import ModelConfig
from whorl.models.decoder import Decoder
from whorl.models.directory import load, save_state
from whorl.models.generation import Prompt, generate
from whorl.models.init import init_weights
from whorl.models.weights import weight_version
from whorl.parallel.group import Group
from whorl.parallel.launch import EXIT_RESUME
from whorl.parallel.wrap import gather_state
from whorl.text.tokenizer import Tokenizer
from whorl.train.checkpoint import check_resumable
from whorl.train.loop import Sampler, TrainState, fit
from whorl.train.objectives import next_token
from whorl.train.recipe import TrainRecipe


def pretrain(recipe: TrainRecipe) -> TrainState:
    """Train as `recipe` says in runs/<name>; called by every rank, or by one process.

    Started again, it goes on from its last checkpoint. At the end runs/<name>/model is a Hugging Face
    directory. The state's `left` names the signal it left on, "" when it is done.
    """
    group = Group.current()
    run = Path(recipe.runs) / recipe.name
    sets = _open(recipe, group)
    tokenizer = Tokenizer.load(sets[0].tokenizer_directory)
    parts = [
        PretrainBatches(
            tokens, length=recipe.batch.length, sequence=recipe.batch.sequence, seed=recipe.train.seed,
            micro_batches=recipe.batch.micro_batches, epochs=recipe.epochs,
        )
        for tokens in sets
    ]  # fmt: skip
    validation = [batch for part in parts for batch in part.validation(recipe.validation_batches)]
    model = _model(recipe, sets[0].vocab_size)
    batches = _mixed(recipe, parts)
    # Nothing of the run is written before this: a start that is refused leaves it as it was.
    check_resumable(run, batches.fingerprint, model)
    started = time.time()
    with Logbook(run) if group.rank == 0 else Logbook.null() as logbook:
        data = {directory: tokens.fingerprint for directory, tokens in zip(recipe.tokens, sets, strict=True)}
        logbook.config(recipe, data | ({"model": weight_version(recipe.start)} if recipe.start else {}))
        state = fit(
            model, batches, next_token, recipe.train, logbook,
            validation=validation, sample=_sampler(recipe, tokenizer) if recipe.prompts else None,
        )  # fmt: skip
        seconds = time.time() - started
        if state.left:
            logbook.event("finish", reason="signal", step=state.step, seconds=seconds)
            return state
        _export(model, run / "model", tokenizer, state, logbook, group)
        _result(state, validation, parts, logbook)
        logbook.event("finish", step=state.step, seconds=seconds)
    return state


def pretrain_rank(recipe: str) -> int | None:
    """`pretrain` as `launch` calls it: the recipe as JSON in, an exit code out."""
    state = pretrain(TrainRecipe.model_validate_json(recipe))
    return EXIT_RESUME if state.left else None


def _open(recipe: TrainRecipe, group: Group) -> list[TokenSet]:
    """Hashes are compared by rank 0 alone."""
    sets = [open_tokens(directory, verify=group.rank == 0) for directory in recipe.tokens]
    for directory, tokens in zip(recipe.tokens, sets, strict=True):
        if tokens.tokenizer_hash != sets[0].tokenizer_hash:
            raise InputError(
                f"{directory} was made with a different tokenizer from {recipe.tokens[0]}; tokenise"
                " one of them"
                f" again with --tokenizer {sets[0].tokenizer_directory}"
            )
    return sets


def _mixed(recipe: TrainRecipe, parts: list[PretrainBatches]) -> Batches:
    if len(parts) == 1:
        return parts[0]
    weights = recipe.weights or tuple(float(part.per_epoch) for part in parts)
    return MixedBatches(
        dict(zip(recipe.tokens, parts, strict=True)), dict(zip(recipe.tokens, weights, strict=True)),
        micro_batches=recipe.batch.micro_batches,
    )  # fmt: skip


def _model(recipe: TrainRecipe, vocabulary: int) -> Decoder:
    if recipe.model is None:
        model = load(recipe.start, dtype=torch.float32)
        if model.config.vocab_size < vocabulary:
            raise InputError(
                f"{recipe.start} knows {model.config.vocab_size} tokens, and the data has {vocabulary};"
                " tokenise the data with the model's tokenizer"
            )
        return model
    axes = recipe.model.model_dump(exclude_unset=True)
    if 0 < axes.get("vocab_size", 0) < vocabulary:
        raise InputError(
            f"model.vocab_size is {axes['vocab_size']}, but the tokens have {vocabulary}; remove the setting"
        )
    axes["vocab_size"] = axes.get("vocab_size") or vocabulary
    axes["context"] = axes.get("context") or recipe.batch.sequence
    return init_weights(Decoder(ModelConfig.model_validate(axes)), recipe.train.seed)


def _sampler(recipe: TrainRecipe, tokenizer: Tokenizer) -> Sampler:
    params = SamplingParams(max_tokens=recipe.sample_tokens, temperature=0.7, seed=recipe.train.seed)
    prompts = [Prompt(tokenizer.encode(text)) for text in recipe.prompts]

    def sample(model: Decoder) -> list[tuple[str, str]]:
        replies = generate(model, prompts, params, end_ids=tokenizer.end_ids)
        texts = [tokenizer.decode(list(reply.ids), skip_control=True) for reply in replies]
        return list(zip(recipe.prompts, texts, strict=True))

    return sample


def _export(
    model: Decoder, path: Path, tokenizer: Tokenizer, state: TrainState, logbook: Logbook, group: Group
) -> None:
    weights = gather_state(model)  # every rank takes part
    if group.rank == 0:
        save_state(
            model.config, weights, path, tokenizer, family=model.family, compute_dtype=model.compute_dtype
        )
        logbook.event("exported", path=str(path), weights=weight_version(path), step=state.step)
        say(f"model: {path}")
    group.barrier()


def _result(
    state: TrainState, validation: list[Batch], parts: list[PretrainBatches], logbook: Logbook
) -> None:
    if not validation:
        say("no held-out documents: there is no validation loss")
        return
    held_out = [part.tokens.split("validation") for part in parts if "validation" in part.tokens.splits]
    tokens_a_byte = sum(split.tokens for split in held_out) / max(1, sum(split.bytes for split in held_out))
    bits = state.validation_loss / math.log(2) * tokens_a_byte
    cases = round(sum(batch.weight for batch in validation))
    logbook.event("result", name="validation loss", value=state.validation_loss, unit="nats per token",
                  cases=cases, lower_is_better=True)  # fmt: skip
    logbook.event("result", name="bits per byte", value=bits, unit="bits", cases=cases, lower_is_better=True)
    say(f"validation: {state.validation_loss:.3f} nats per token, about {bits:.2f} bits per byte")
