"""The run's two trainings: documents first, then conversations with tools and images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

from whorl.base.logbook import Logbook, read_metrics, series
from whorl.base.nouns import Conversation, SamplingParams
from whorl.base.progress import progress, say
from whorl.data.batch import Sample
from whorl.data.loader import PretrainBatches, SampleBatches
from whorl.data.pool import Pool
from whorl.models.decoder import Decoder
from whorl.models.directory import load, save
from whorl.models.generation import Prompt, generate
from whorl.models.init import init_weights
from whorl.models.weights import weight_version
from whorl.post.samples import chat_samples
from whorl.quickstart.config import QuickstartConfig
from whorl.quickstart.corpus import WORKERS, Corpus
from whorl.quickstart.lessons import Course
from whorl.quickstart.plan import BATCH_TOKENS, IMAGES, SEQUENCE, Plan
from whorl.text.template import ChatTemplate
from whorl.text.tokenizer import Tokenizer
from whorl.train.config import OptimConfig, ScheduleConfig, TrainConfig
from whorl.train.loop import TrainState, fit
from whorl.train.objectives import next_token

FAMILY = "qwen3"
CONVERSATION_TOKENS = 66  # mean of a lesson: how many are needed for a number of steps
EPOCHS = 2.0  # how often a lesson is seen
CHUNK = 1000  # conversations that a worker makes into samples in one go
CHECKPOINTS = 6  # of each training
PROMPTS = ("def ", "The ")


def pretrain(config: QuickstartConfig, plan: Plan, corpus: Corpus, run: Path, logbook: Logbook) -> TrainState:
    """Train a new model on the documents; it is saved in run/base."""
    model = Decoder(plan.model(corpus.tokenizer.id_of("[IMG]"), corpus.tokenizer.vocab_size))
    init_weights(model, config.seed)
    batches = PretrainBatches(
        corpus.tokens, length=BATCH_TOKENS, sequence=SEQUENCE, micro_batches=1, seed=config.seed
    )
    train = _config(config, plan, plan.pretrain_steps, OptimConfig(), sample_every=plan.pretrain_steps // 2)

    def sample(model: Decoder) -> list[tuple[str, str]]:
        return continuations(model, corpus.tokenizer)

    state = fit(model, batches, next_token, train, logbook, validation=batches.validation(8), sample=sample)
    if not state.left:
        _save(model, run / "base", corpus.tokenizer, logbook, state)
    return state


def reached_rate(run: Path) -> float:
    """Tokens/s of the middle one of a training's steps."""
    return median(series(read_metrics(run), "tokens_per_second")[1])


def continuations(model: Decoder, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """What a base model makes of the beginnings of a line."""
    params = SamplingParams(max_tokens=24, temperature=0.7)
    prompts = [Prompt(tokenizer.encode(text)) for text in PROMPTS]
    replies = generate(model, prompts, params, end_ids=tokenizer.end_ids)
    return [
        (text, tokenizer.decode(list(reply.ids), skip_control=True))
        for text, reply in zip(PROMPTS, replies, strict=True)
    ]


def learn_chat(
    config: QuickstartConfig, plan: Plan, corpus: Corpus, course: Course, run: Path, logbook: Logbook
) -> TrainState:
    """Go on from run/base on conversations; the assistant is saved in run/model."""
    count = int(plan.chat_steps * BATCH_TOKENS / CONVERSATION_TOKENS / EPOCHS)
    samples = make_samples(course.conversations(count), count, corpus.tokenizer)
    logbook.event("data", name="conversations", counts={"conversations": count, "samples": len(samples)})
    model = load(run / "base")
    batches = SampleBatches(samples, length=BATCH_TOKENS, micro_batches=1, seed=config.seed)
    optim = OptimConfig(lr=2e-3, muon_lr=1e-2)
    state = fit(model, batches, next_token, _config(config, plan, plan.chat_steps, optim), logbook)
    if not state.left:
        _save(model, run / "model", corpus.tokenizer, logbook, state)
    return state


def make_samples(conversations: Iterable[Conversation], count: int, tokenizer: Tokenizer) -> list[Sample]:
    """The conversations as training samples, made by worker processes; those too long are left out."""
    chunks = list(batched(conversations, CHUNK))
    samples: dict[int, list[Sample]] = {}
    with Pool(WORKERS) as pool, progress(count, "conversations to samples", "conversations") as bar:
        for number, made in pool.run(partial(_chunk_samples, tokenizer=tokenizer), chunks):
            samples[number] = made
            bar.advance(len(chunks[number]))
    left_out = count - sum(len(made) for made in samples.values())
    if left_out:
        say(f"{left_out} conversations over {SEQUENCE} tokens are left out")
    return [sample for number in range(len(chunks)) for sample in samples[number]]


def _chunk_samples(conversations: list[Conversation], tokenizer: Tokenizer) -> list[Sample]:
    template = ChatTemplate.default()
    return chat_samples(
        conversations, tokenizer, template, image_config=IMAGES, max_length=SEQUENCE, too_long="drop"
    )[0]


def batched(items: Iterable[Conversation], size: int) -> Iterator[list[Conversation]]:
    """Lists of `size`, the last one shorter (`itertools.batched` comes with Python 3.12)."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _config(
    config: QuickstartConfig, plan: Plan, steps: int, optim: OptimConfig, sample_every: int = 0
) -> TrainConfig:
    return TrainConfig(
        steps=steps, seed=config.seed, dtype=plan.dtype, compile=config.compile, optim=optim,
        schedule=ScheduleConfig(warmup=5, decay=0.5), checkpoint_every=max(1, steps // CHECKPOINTS),
        sample_every=sample_every, keep_checkpoints=1,
    )  # fmt: skip


def _save(model: Decoder, path: Path, tokenizer: Tokenizer, logbook: Logbook, state: TrainState) -> None:
    template = ChatTemplate.default()
    tokenizer.end_ids = template.end_ids(tokenizer)
    save(model, path, tokenizer, template=template, images=IMAGES, family=FAMILY)
    logbook.event("exported", path=str(path), weights=weight_version(path), step=state.step)
