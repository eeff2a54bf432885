"""Tokens/s of a training step against Hugging Face's Trainer: same model, batches, dtype, in one run.

    python bench/train.py [--rounds 3] [--profile]        needs: pip install -e '.[bench]'

One model directory, written by `whorl.models.save`, is what both sides load: a Qwen3-shaped decoder of
quickstart's size. Both learn from the same batches of this Python's own library, in the same order, in
bf16 over fp32 weights, with AdamW at one rate, gradients clipped to 1, on equal threads, without loader
workers, checkpoints or logs; sequences are equally long, so attention is the same work too. Trainer runs
as it comes (bf16 is autocast, AdamW is torch's fused one) and with `torch_compile`, its best here.

A round is every side once, each in a process of its own: Whorl tells the allocator to keep freed memory,
which holds for a whole process. What Trainer gains from that alone is a row of its own. Seconds are from
one step's end to the next, loader included; the first steps, which compile, are left out. The median of a
round's steps counts, then the median of the rounds. Losses tell that the sides did the same: step 1 is
the same weights on the same batch, the last step comes after as many updates.

The limit is the rate of the model's widest matmul, measured in every process before it trains.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from _record import keep
from rich.console import Console
from rich.table import Table

from whorl.base.files import read_json, write_json
from whorl.base.logbook import Logbook
from whorl.data.batch import Batch
from whorl.data.batches import Batches

if TYPE_CHECKING:
    from whorl.models.config import ModelConfig
    from whorl.train.config import TrainConfig

VOCABULARY, D_MODEL, LAYERS, D_FF, HEAD = 4096, 320, 6, 864, 64
BPE_BYTES = 3_000_000  # of text that the tokenizer is learnt from
LR, BETAS, EPS, CLIP = 1e-3, (0.9, 0.95), 1e-8, 1.0
PROFILE_ROWS = 15
WIDTH = 110  # of the printed tables where the output is no terminal


class Side(NamedTuple):
    name: str
    library: str  # whorl or trainer
    compiled: bool = True
    optimiser: str = "adamw"
    keeps_memory: bool = False  # Whorl always does


OURS, PEER, BEST_PEER = "Whorl", "Trainer", "Trainer, compiled"
SIDES = {
    side.name: side
    for side in (
        Side(OURS, "whorl", keeps_memory=True),
        Side(PEER, "trainer", compiled=False),
        Side(BEST_PEER, "trainer"),
        Side("Trainer, compiled, memory kept", "trainer", keeps_memory=True),
        Side("Whorl with Muon", "whorl", optimiser="muon", keeps_memory=True),
    )
}


@dataclass(frozen=True)
class Work:
    """What every process is told; `folder` holds the model directory and the tokens."""

    folder: str
    side: str
    sequence: int
    rows: int  # sequences in a batch
    warmup: int  # steps that are not counted
    steps: int  # steps that are
    threads: int
    profile: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.sequence

    @property
    def model(self) -> Path:
        return Path(self.folder) / "model"

    def read_tokens(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """[sequences, tokens of a sequence], as many as the steps take."""
        return np.load(Path(self.folder) / "tokens.npy")


class Rows(Batches):
    """A batch is the next `rows` sequences; what follows a sequence's last token is not learnt."""

    micro_batches = 1

    def __init__(self, sequences: np.ndarray[Any, np.dtype[np.int32]], rows: int) -> None:
        self._sequences, self._rows = sequences, rows
        self.length = rows * sequences.shape[1]
        self.per_epoch = self.total = len(sequences) // rows

    def micro(self, number: int) -> Batch:
        chosen = self._sequences[number * self._rows : (number + 1) * self._rows]
        targets, weights = np.zeros_like(chosen), np.zeros(chosen.shape, np.float32)
        targets[:, :-1], weights[:, :-1] = chosen[:, 1:], 1.0
        return Batch(
            tokens=chosen.reshape(-1), targets=targets.reshape(-1), weights=weights.reshape(-1),
            lengths=np.full(len(chosen), chosen.shape[1], np.int32), ids=self.micro_ids(number),
        )  # fmt: skip

    def micro_ids(self, number: int) -> tuple[str, ...]:
        return tuple(str(number * self._rows + row) for row in range(self._rows))

    @property
    def fingerprint(self) -> str:
        return "bench"  # nothing is resumed


class StepClock(Logbook):
    """A logbook that keeps nothing but when each step ended, and calls `at` after each."""

    ends: list[float]
    at: Callable[[int], None]

    def metric(self, step: int, **values: float) -> None:
        self.ends.append(time.perf_counter())
        self.at(step)


def whorl_side(work: Work, side: Side) -> dict[str, Any]:
    """Train through `fit`, as every recipe does."""
    from whorl.models.directory import load
    from whorl.train.loop import fit
    from whorl.train.objectives import next_token

    model = load(work.model)
    config = train_config(work, side)
    clock = StepClock.null()
    clock.ends, clock.at = [], lambda step: None
    profiler = Profiler(work) if work.profile else None
    if profiler is not None:
        clock.at = profiler.at
    state = fit(model, Rows(work.read_tokens(), work.rows), next_token, config, clock)
    return {"ends": clock.ends, "losses": state.losses, "profile": profiler.rows if profiler else []}


def train_config(work: Work, side: Side) -> TrainConfig:
    from whorl.train.config import OptimConfig, ScheduleConfig, TrainConfig

    name = "muon" if side.optimiser == "muon" else "adamw"
    return TrainConfig(
        steps=work.warmup + work.steps, dtype="bfloat16", device="cpu",
        optim=OptimConfig(name=name, lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0, clip=CLIP),
        schedule=ScheduleConfig(name="constant", warmup=0),
    )  # fmt: skip


def trainer_side(work: Work, side: Side) -> dict[str, Any]:
    """Train through Trainer with its own optimiser, collator and loss."""
    import torch
    from transformers import Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments

    if side.keeps_memory:
        from whorl.base.posix import keep_freed_memory

        keep_freed_memory()
    ends: list[float] = []
    losses: list[torch.Tensor] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    class Remembers(Trainer):
        def compute_loss(self, *given: Any, **named: Any) -> Any:
            loss: Any = super().compute_loss(*given, **named)
            losses.append(loss.detach())
            return loss

    arguments = TrainingArguments(
        output_dir=str(Path(work.folder) / "trainer"), max_steps=work.warmup + work.steps,
        per_device_train_batch_size=work.rows, train_sampling_strategy="sequential",
        bf16=True, use_cpu=True, torch_compile=side.compiled,
        learning_rate=LR, adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPS, weight_decay=0.0,
        max_grad_norm=CLIP, lr_scheduler_type="constant",
        dataloader_num_workers=0, dataloader_pin_memory=False,
        save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    examples = [{"input_ids": ids, "labels": ids} for ids in torch.from_numpy(work.read_tokens()).long()]
    model = Qwen3ForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    Remembers(model=model, args=arguments, train_dataset=examples, callbacks=[Clock()]).train()
    return {"ends": ends, "losses": [float(loss) for loss in losses], "optimiser": str(arguments.optim)}


class Profiler:
    """torch's profiler over the counted steps."""

    def __init__(self, work: Work) -> None:
        from torch.profiler import ProfilerActivity, profile

        self._work = work
        self._profile = profile(activities=[ProfilerActivity.CPU])
        self.rows: list[tuple[str, float, float, float]] = []  # op, calls a step, ms a step, share

    def at(self, step: int) -> None:
        if step == self._work.warmup:
            self._profile.start()
        elif step == self._work.warmup + self._work.steps:
            self._profile.stop()
            events = self._profile.key_averages()
            whole = sum(event.self_cpu_time_total for event in events)
            events = sorted(events, key=lambda event: -event.self_cpu_time_total)[:PROFILE_ROWS]
            count = self._work.steps
            self.rows = [
                (op_name(event.key), event.count / count, event.self_cpu_time_total / count / 1e3,
                 event.self_cpu_time_total / whole)
                for event in events
            ]  # fmt: skip


def op_name(key: str) -> str:
    """An op as the profiler calls it, a compiled graph by the beginning of its hash."""
    found = re.match(r"## Call CompiledFxGraph (\w{8})", key)
    return f"compiled graph {found.group(1)}…" if found else key


def child(work: Work, answer: Path) -> None:
    """One side, once: measure the limit, train, write what was seen."""
    import torch

    from whorl.models.directory import read_config
    from whorl.train.measure import matmul_rate

    torch.set_num_threads(work.threads)
    side = SIDES[work.side]
    rate = matmul_rate(read_config(work.model)[0], work.tokens, torch.bfloat16, torch.device("cpu"))
    seen = (whorl_side if side.library == "whorl" else trainer_side)(work, side)
    seconds = np.diff(seen.pop("ends"))[-work.steps :].tolist()
    write_json(answer, {"matmul_rate": rate, "seconds": seconds, "threads": torch.get_num_threads(), **seen})


def run_child(work: Work) -> dict[str, Any]:
    """`child` in a process of its own; what it said is shown only where it failed."""
    answer = Path(work.folder) / "answer.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--child", json.dumps(asdict(work))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not answer.exists():
        sys.exit(f"{work.side} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = read_json(answer)
    return found


def prepare(work: Work) -> ModelConfig:
    """Write the model directory and the tokens that every process reads."""
    import torch

    from whorl.models.config import ModelConfig
    from whorl.models.decoder import Decoder
    from whorl.models.directory import save
    from whorl.models.init import BRANCH_ENDS, init_weights
    from whorl.text.bpe import train_bpe

    texts = list(library(BPE_BYTES))
    tokenizer = train_bpe(texts, VOCABULARY)
    end = tokenizer.encode_control("<|endoftext|>")
    wanted = (work.warmup + work.steps) * work.tokens
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer.encode(text), *end]
        if len(ids) >= wanted:
            break
    else:
        sys.exit(f"this Python's library has {len(ids)} tokens, and {wanted} are wanted; lower --steps")
    tokens = np.array(ids[:wanted], np.int32).reshape(-1, work.sequence)
    np.save(Path(work.folder) / "tokens.npy", tokens)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=D_MODEL, n_layers=LAYERS, n_heads=D_MODEL // HEAD,
        n_kv_heads=D_MODEL // HEAD, head_dim=HEAD, d_ff=D_FF, context=work.sequence, qk_norm=True, tied=True,
    )  # fmt: skip
    model = init_weights(Decoder(config), 0)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith(BRANCH_ENDS):  # zero by our init: then step 1's loss would say nothing of the blocks
            torch.nn.init.normal_(parameter, std=0.02)
    save(model, work.model, family="qwen3")
    return config


def library(size: int) -> Iterator[str]:
    """About `size` bytes of the library's sources, in a fixed order that takes from all of it."""
    from whorl.data.document import Document
    from whorl.quickstart.sources import python_documents

    documents = [one for one in python_documents() if isinstance(one, Document)]
    for document in documents[::3] + documents[1::3] + documents[2::3]:
        if size <= 0:
            return
        yield document.text
        size -= len(document.text.encode())


class Figures(NamedTuple):
    """A side over all its rounds."""

    tokens_per_second: float
    rounds: list[float]
    first_loss: float
    last_loss: float


def summarise(answers: list[dict[str, Any]], tokens: int) -> Figures:
    """The median over rounds of each round's median step."""
    rates = [tokens / statistics.median(answer["seconds"]) for answer in answers]
    losses = answers[-1]["losses"]
    return Figures(statistics.median(rates), rates, losses[0], losses[-1])


def sides(console: Console) -> list[str]:
    from whorl.kernels.device import compiler_available

    if compiler_available() is not None:
        return list(SIDES)
    console.print("no C++ compiler was found: Whorl runs eagerly, and Trainer's compiled rows are left out")
    return [name for name, side in SIDES.items() if side.library == "whorl" or not side.compiled]


def compare(work: Work, rounds: int, console: Console) -> dict[str, Any]:
    """Run every side `rounds` times in turn; print the table, return the record."""
    from whorl.train.measure import flops_per_token

    config = prepare(work)
    console.print(
        f"{D_MODEL} × {LAYERS} layers, vocabulary {config.vocab_size}, {work.rows} × {work.sequence} tokens"
        f" a step, {work.warmup} + {work.steps} steps, {work.threads} threads, bf16"
    )
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides(console)}
    for number in range(rounds):
        for name, seen in answers.items():
            seen.append(run_child(replace(work, side=name)))
        told = ", ".join(f"{name} {summarise(seen[-1:], work.tokens).tokens_per_second:,.0f}"
                         for name, seen in answers.items())  # fmt: skip
        console.print(f"round {number + 1} of {rounds}: {told} tokens/s", style="dim")
    figures = {name: summarise(seen, work.tokens) for name, seen in answers.items()}
    rates = [answer["matmul_rate"] for seen in answers.values() for answer in seen]
    rate, flops = statistics.median(rates), flops_per_token(config, work.sequence)
    shares = {name: one.tokens_per_second * flops / rate for name, one in figures.items()}
    show(figures, shares, rate, console)
    mine = figures[OURS].tokens_per_second
    return {
        "sides": {
            name: {
                **one._asdict(), "matmul_share": shares[name],
                "seconds": [answer["seconds"] for answer in answers[name]],
            }
            for name, one in figures.items()
        },
        "ratio": {name: mine / one.tokens_per_second for name, one in figures.items() if name != OURS},
        "matmul_flops": rate, "matmul_flops_of_processes": rates, "flops_per_token": flops,
        "trainer_optimiser": answers[PEER][0]["optimiser"],
        "model": config.model_dump(include={"d_model", "n_layers", "n_heads", "d_ff", "vocab_size"}),
    }  # fmt: skip


def show(figures: dict[str, Figures], shares: dict[str, float], rate: float, console: Console) -> None:
    table = Table("side", "tokens/s", "rounds", "Whorl is", "of matmul", "loss, step 1", "loss, last step")
    mine = figures[OURS].tokens_per_second
    for name, one in figures.items():
        table.add_row(
            name, f"{one.tokens_per_second:,.0f}", f"{min(one.rounds):,.0f} … {max(one.rounds):,.0f}",
            "" if name == OURS else f"{mine / one.tokens_per_second:.2f}×", f"{shares[name]:.0%}",
            f"{one.first_loss:.4f}", f"{one.last_loss:.4f}",
        )  # fmt: skip
    console.print(table)
    console.print(f"widest matmul, bf16: {rate / 1e9:,.0f} GFLOP/s (median of all processes)")


def show_profile(rows: list[list[Any]], console: Console) -> None:
    table = Table("op", "calls a step", "ms a step", "share", title="Whorl's step (torch.profiler)")
    for name, calls, milliseconds, share in rows:
        table.add_row(name, f"{calls:,.1f}", f"{milliseconds:.2f}", f"{share:.1%}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs, in turn")
    parser.add_argument("--steps", type=int, default=12, help="steps of a round that are counted")
    parser.add_argument("--warmup", type=int, default=4, help="steps of a round before those")
    parser.add_argument("--rows", type=int, default=8, help="sequences in a batch")
    parser.add_argument("--sequence", type=int, default=512, help="tokens in a sequence")
    parser.add_argument("--profile", action="store_true", help="Whorl's step under torch's profiler as well")
    parser.add_argument("--dry", action="store_true", help="append nothing to bench/results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work = Work(**json.loads(options.child))
        child(work, Path(work.folder) / "answer.json")
        return
    for name in ("rounds", "steps", "warmup", "rows", "sequence"):
        if getattr(options, name) < 1:
            sys.exit(f"--{name} must be 1 or more, not {getattr(options, name)}")
    try:
        versions = {name: version(name) for name in ("torch", "transformers", "accelerate")}
    except ImportError as error:
        sys.exit(f"bench/train.py compares with transformers' Trainer: {error}; pip install -e '.[bench]'")
    import torch

    console = Console(width=max(WIDTH, Console().width))
    with tempfile.TemporaryDirectory(prefix="whorl-bench-") as folder:
        work = Work(
            folder=folder, side=OURS, sequence=options.sequence, rows=options.rows, warmup=options.warmup,
            steps=options.steps, threads=torch.get_num_threads(),
        )  # fmt: skip
        found = compare(work, options.rounds, console)
        rows = run_child(replace(work, profile=True))["profile"] if options.profile else []
    if rows:
        show_profile(rows, console)
    if not options.dry:
        keep("train", {
            **found, "profile": rows, "rounds": options.rounds, "warmup": work.warmup, "steps": work.steps,
            "batch": [work.rows, work.sequence], "dtype": "bfloat16", "threads": work.threads,
        }, versions)  # fmt: skip


if __name__ == "__main__":
    main()
