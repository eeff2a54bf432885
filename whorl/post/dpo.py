"""Preference training: a model directory and pairs in, a model (or an adapter) that prefers them out."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import torch

from whorl.base.errors import DataError, InputError
from whorl.base.files import sha256_input
from whorl.base.logbook import CONFIG, Logbook, read_metrics, series
from whorl.base.posix import keep_freed_memory
from whorl.base.progress import say
from whorl.models.decoder import Decoder
from whorl.models.directory import load
from whorl.models.lora import inject
from whorl.models.place import model_directory
from whorl.models.weights import weight_version
from whorl.parallel.group import Group
from whorl.parallel.launch import EXIT_RESUME
from whorl.post.config import BETAS, DpoConfig
from whorl.post.pair_batches import PairBatches, Reference
from whorl.post.pair_samples import Maker, PairSample, pair_samples
from whorl.post.pairs import Pair, read_pairs
from whorl.post.preference import Preference
from whorl.post.preview import preview_pairs
from whorl.post.reference import compute_reference, has_reference, keep_reference, read_reference
from whorl.post.sft import held_out_by
from whorl.post.start import Start, export, open_start, train_config
from whorl.text.tokenizer import Tokenizer
from whorl.train.checkpoint import check_resumable, has_checkpoint
from whorl.train.choices import decide
from whorl.train.loop import TrainState, fit
from whorl.train.setup import run_device


def dpo(config: DpoConfig) -> TrainState:
    """Train as `config` says in runs/<name>; called by every rank, or by one process.

    Started again, it goes on from its last checkpoint. At the end runs/<name>/model is a Hugging Face
    directory, or runs/<name>/adapter a PEFT one. The state's `left` names the signal it left on.
    """
    keep_freed_memory()
    group = Group.current()
    run = Path(config.runs) / config.name
    start = open_start(config.model, config.template_args)
    training, held_out = _samples(config, start)
    objective = Preference(config.loss, config.beta or BETAS[config.loss], config.nll)
    versions = _versions(config)
    version = versions.get("reference", versions["model"])
    device = run_device(config.train, group)
    known = group.first(_known(run, training + held_out, version) if group.rank == 0 else None)
    if known is None:
        reference = _other(config.reference, start) if config.reference else start.model
    else:
        _adapt(start.model, config)
        check_resumable(run, _batches(config, training, known).fingerprint, start.model)
    # Nothing of the run is written before this: a start that is refused leaves it as it was.
    started = time.time()
    with Logbook(run) if group.rank == 0 else Logbook.null() as logbook:
        _tell_objective(run, config, logbook)
        logbook.config(config, {pairs: sha256_input(pairs) for pairs in config.pairs} | versions)
        if known is None:
            choices = decide(start.model.config, config.length, config.train, device, logbook, group)
            reference.compute_dtype = getattr(torch, choices.dtype)  # what training will take
            known = compute_reference(reference, training + held_out, config.length, device, group)
            if logbook.path is not None:
                keep_reference(run, training + held_out, version, known)
            _adapt(start.model, config)  # after the reference's pass, which is then the base's alone
        batches = _batches(config, training, known)
        validation = PairBatches(
            held_out, length=config.length, micro_batches=1, seed=0, reference=known[len(training) :]
        ).in_order() if held_out else []  # fmt: skip
        state = fit(
            start.model, batches, objective, train_config(config.train, config.epochs, batches), logbook,
            validation=validation, measure=objective.measure,
        )  # fmt: skip
        seconds = time.time() - started
        if state.left:
            logbook.event("finish", reason="signal", step=state.step, seconds=seconds)
            return state
        export(start, config.model, run, state, logbook, group, adapter=config.lora is not None)
        if held_out and group.rank == 0:
            _results(run, len(held_out), logbook)
        logbook.event("finish", step=state.step, seconds=seconds)
    return state


def dpo_rank(config: str) -> int | None:
    """`dpo` as `launch` calls it: the configuration as JSON in, an exit code out."""
    return EXIT_RESUME if dpo(DpoConfig.model_validate_json(config)).left else None


def _samples(config: DpoConfig, start: Start) -> tuple[list[PairSample], list[PairSample]]:
    """Training and held-out samples; pairs of the same prompt are on one side."""
    pairs = [pair for place in config.pairs for pair in read_pairs(place)]
    if not pairs:
        raise DataError(
            f"{', '.join(config.pairs)}: contains no pairs; give files with prompt, chosen, rejected"
        )
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        sides[held_out_by(pair.prompt, config.validation)].append(pair)
    if not sides[0]:
        raise DataError("every prompt is held out; lower validation")
    maker = Maker(start.tokenizer, start.template, start.images)
    limit = min(start.model.config.context, config.max_length or start.model.config.context)
    made = []
    for name, side in zip(("train", "held"), sides, strict=True):
        samples, report = pair_samples(
            side, maker, length=config.length, max_length=limit, name=name,
            too_long="drop" if side is sides[1] and config.too_long == "stop" else config.too_long,
        )  # fmt: skip
        if side is sides[0]:
            preview_pairs(samples, report, start.tokenizer)
        made.append(samples)
    if not made[0]:
        raise DataError(
            f"no pair fits {limit} tokens each and {config.length} together; raise length or max_length,"
            " or --too-long cut"
        )
    return made[0], made[1]


def _tell_objective(run: Path, config: DpoConfig, logbook: Logbook) -> None:
    """A run that goes on with another objective does so because it was asked to, and says it."""
    place = run / CONFIG
    if logbook.path is None or not place.exists():
        return
    before = tomllib.loads(place.read_text(encoding="utf-8"))
    changed = [
        f"{name} {before.get(name)} → {getattr(config, name)}"
        for name in ("loss", "beta", "nll")
        if before.get(name) != getattr(config, name)
    ]
    if changed:
        text = f"the objective differs from the run's; using the new one: {', '.join(changed)}"
        say(text)
        logbook.event("note", text=text)


def _versions(config: DpoConfig) -> dict[str, str]:
    """The weights of the model and, where it is another, of the reference."""
    given = {"model": config.model} | ({"reference": config.reference} if config.reference else {})
    return {name: weight_version(model_directory(place)) for name, place in given.items()}


def _known(run: Path, pairs: Sequence[PairSample], version: str) -> Reference | None:
    """The reference's log-probs that the run has. `InputError` where it has others, and a checkpoint that was
    trained against them."""
    known = read_reference(run, pairs, version)
    if known is None and has_reference(run) and has_checkpoint(run):
        raise InputError(
            f"{run} was trained on different pairs or against another reference; choose a new"
            " --name, or give the original inputs"
        )
    return known


def _batches(config: DpoConfig, training: Sequence[PairSample], known: Reference) -> PairBatches:
    return PairBatches(
        training, length=config.length, micro_batches=config.micro_batches, seed=config.train.seed,
        reference=known[: len(training)],
    )  # fmt: skip


def _adapt(model: Decoder, config: DpoConfig) -> None:
    if config.lora is not None:
        inject(model, config.lora, seed=config.train.seed)


def _other(directory: str, start: Start) -> Decoder:
    """Another reference than the model itself; it must read the same tokens."""
    place = model_directory(directory)
    if Tokenizer.load(place).hash != start.tokenizer.hash:
        raise InputError(
            f"the reference {directory} has a different tokenizer from the model's; give one that shares it"
        )
    model = load(place, dtype=torch.float32)
    if (model.config.vision is None) != (start.model.config.vision is None):
        raise InputError(
            f"of the model and the reference {directory} only one is multimodal; give two of the same kind"
        )
    return model


def _results(run: Path, cases: int, logbook: Logbook) -> None:
    """The last validation's figures, as results of the run."""
    metrics = read_metrics(run)
    for name, unit, lower in (("loss", "", True), ("accuracy", "share", False), ("margin", "", False)):
        _, values = series(metrics, f"validation_{name}")
        logbook.event("result", name=f"preference {name}", value=values[-1], unit=unit, cases=cases,
                      lower_is_better=lower)  # fmt: skip
        say(f"validation {name}: {values[-1]:.3f} over {cases:,} pairs")
