"""The reference generator: against `transformers`, alone and side by side, and as a distribution."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import transformers
from hypothesis import given, settings

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import SamplingParams
from whorl.kernels.buckets import bucket
from whorl.models.config import ModelConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.directory import load
from whorl.models.generation import Generated, Prompt, generate
from whorl.models.sampling import Choice, Draw, adjusted, choose, truncated, uniform
from whorl.text.images import Patches

PROMPTS = [[3, 14, 15], [9] * 11, list(range(1, 30)), [7], [3, 14, 15, 9, 2]]
TEXT: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def greedy(tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens)


@pytest.fixture(scope="module")
def tiny() -> Decoder:
    torch.manual_seed(0)
    model = Decoder(
        ModelConfig(
            vocab_size=61, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, context=64
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def rescored(model: Decoder, prompt: list[int], reply: Generated) -> torch.Tensor:
    """The reply's log-probs from one forward over prompt and reply."""
    ids = torch.tensor([*prompt, *reply.ids])
    with torch.no_grad():
        logits = model.logits(model(ids, Packed([len(ids)])))[len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(reply.ids)[:, None])[:, 0]


# -- against transformers ------------------------------------------------------------------------


def test_greedy_is_transformers_greedy(tmp_path: Path) -> None:
    torch.manual_seed(0)
    oracle = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)).eval()
    oracle.save_pretrained(tmp_path)
    model = load(tmp_path)
    replies = generate(model, [Prompt(ids) for ids in PROMPTS], greedy(12), end_ids=[])
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        out = oracle.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        assert list(reply.ids) == out.sequences[0, len(prompt) :].tolist()
        wanted = [
            float(logits[0].log_softmax(-1)[token])
            for logits, token in zip(out.logits, reply.ids, strict=True)
        ]
        assert reply.logprobs == pytest.approx(wanted, abs=1e-4)
        assert reply.finish == "length"
    assert len({reply.ids for reply in replies}) == len(PROMPTS), "the model must tell prompts apart"


def test_images_as_transformers_sees_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = transformers.PixtralVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=4,
        image_size=32, initializer_range=0.3,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=transformers.LlamaConfig(**TEXT), image_token_index=5,
        vision_feature_select_strategy="full", vision_feature_layer=-1, initializer_range=0.3,
    )  # fmt: skip
    oracle = transformers.LlavaForConditionalGeneration(config).eval()
    oracle.save_pretrained(tmp_path)
    model = load(tmp_path)
    sizes = [(8, 12), (16, 4)]  # pixels; 2 × 3 and 4 × 1 patches
    pictures = [
        torch.randn(3, *size, generator=torch.Generator().manual_seed(i)) for i, size in enumerate(sizes)
    ]
    ids = [9, 8, *[5] * 6, 30, *[5] * 4, 31, 32]
    positions = [at for at, token in enumerate(ids) if token == 5]
    prompts = [Prompt([4, 3, 2]), Prompt(ids, [patches(one) for one in pictures], positions), Prompt([6])]
    replies = generate(model, prompts, greedy(8), end_ids=[])

    padded = torch.zeros(2, 3, 16, 12)
    for row, picture in zip(padded, pictures, strict=True):
        row[:, : picture.shape[1], : picture.shape[2]] = picture
    out = oracle.generate(
        input_ids=torch.tensor([ids]), pixel_values=padded, image_sizes=torch.tensor(sizes),
        max_new_tokens=8, do_sample=False, pad_token_id=0,
    )  # fmt: skip
    assert list(replies[1].ids) == out[0, len(ids) :].tolist()
    alone = generate(model, [prompts[1]], greedy(8), end_ids=[])[0]
    assert alone.ids == replies[1].ids
    swapped = Prompt(ids, [patches(torch.zeros_like(one)) for one in pictures], positions)
    assert generate(model, [swapped], greedy(8), end_ids=[])[0].logprobs != alone.logprobs


def patches(picture: torch.Tensor) -> Patches:
    """A [3, H, W] picture in patches of 4, as `whorl.text.images` cuts it."""
    h, w = picture.shape[1] // 4, picture.shape[2] // 4
    tiles = picture.reshape(3, h, 4, w, 4).permute(1, 3, 0, 2, 4).reshape(h * w, 48)
    return Patches(tiles.numpy(), (h, w))


# -- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.2])
@pytest.mark.parametrize("budget", [1, 40, 16_384])
def test_neighbours_do_not_matter(tiny: Decoder, temperature: float, budget: int) -> None:
    params = SamplingParams(max_tokens=10, temperature=temperature, top_k=20, top_p=0.95, seed=3)
    prompts = [Prompt(ids) for ids in PROMPTS]
    together = generate(tiny, prompts, params, end_ids=[11, 12], token_budget=budget)
    for number, (ids, reply) in enumerate(zip(PROMPTS, together, strict=True)):
        (alone,) = generate(tiny, [Prompt(ids, number=number)], params, end_ids=[11, 12])
        assert (alone.ids, alone.finish) == (reply.ids, reply.finish)
        assert alone.logprobs == pytest.approx(reply.logprobs, abs=1e-5)
        assert reply.logprobs == pytest.approx(rescored(tiny, ids, reply).tolist(), abs=1e-5)


def test_seeds_repeat_and_differ(tiny: Decoder) -> None:
    def draw(seed: int) -> list[Generated]:
        params = SamplingParams(max_tokens=12, temperature=1.5, seed=seed)
        return generate(tiny, [Prompt([5, 6])] * 3, params, end_ids=[])

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert len({reply.ids for reply in draw(1)}) == 3, "copies of a prompt draw differently"


def test_a_forward_holds_the_token_budget(tiny: Decoder) -> None:
    sizes: list[int] = []
    hook = tiny.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    generate(tiny, [Prompt(ids) for ids in PROMPTS * 3], greedy(4), end_ids=[], token_budget=35)
    hook.remove()
    asked = sum(3 * (4 * len(ids) + 6) for ids in PROMPTS)  # each forward is filled up to its bucket
    assert max(sizes) <= bucket(35) and asked <= sum(sizes) <= asked + len(sizes) * (bucket(35) - 1)
    assert len(sizes) >= asked / 35


# -- where a reply ends --------------------------------------------------------------------------


def test_ends(tiny: Decoder) -> None:
    (free,) = generate(tiny, [Prompt([3, 14, 15])], greedy(12), end_ids=[])
    at = next(i for i, token in enumerate(free.ids) if i > 1 and token not in free.ids[:i])
    (cut,) = generate(tiny, [Prompt([3, 14, 15])], greedy(12), end_ids=[60, free.ids[at]])
    assert cut == Generated(free.ids[: at + 1], cut.logprobs, "stop")
    (last,) = generate(tiny, [Prompt([3, 14, 15])], greedy(at + 1), end_ids=[free.ids[at]])
    assert last.finish == "stop", "an end token in the last place is an end"

    seen: list[tuple[int, int]] = []
    (told,) = generate(
        tiny, [Prompt([3, 14, 15])], SamplingParams(max_tokens=12, stop=("x",)), end_ids=[],
        stopped=lambda ids: len(ids) == 3, watch=lambda index, token: seen.append((index, token)),
    )  # fmt: skip
    assert (told.ids, told.finish) == (free.ids[:3], "stop")
    assert seen == [(0, token) for token in free.ids[:3]]


def test_the_context_is_the_limit(tiny: Decoder) -> None:
    (reply,) = generate(tiny, [Prompt([1] * 60)], greedy(50), end_ids=[])
    assert (len(reply.ids), reply.finish) == (4, "length")
    with pytest.raises(InputError, match=r"prompt 1 has 64 tokens .* context is 64"):
        generate(tiny, [Prompt([1]), Prompt([1] * 64)], greedy(1), end_ids=[])
    learned = tiny.config.model_copy(update={"rope": None, "learned_positions": 12, "position_offset": 2})
    (reply,) = generate(Decoder(learned), [Prompt([1] * 6)], greedy(50), end_ids=[])
    assert len(reply.ids) == 4


def test_nothing_is_left_behind(tiny: Decoder) -> None:
    tiny.train()
    generate(tiny, [Prompt([1, 2])], greedy(2), end_ids=[])
    assert tiny.training
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert generate(tiny, [], greedy(2), end_ids=[]) == []


@pytest.mark.parametrize(
    ("prompt", "params", "said"),
    [
        (Prompt([]), greedy(1), "prompt 0 is empty"),
        (Prompt([1, 61]), greedy(1), "token 61"),
        (Prompt([-1]), greedy(1), "token -1"),
        (Prompt([1], image_positions=[0]), greedy(1), "1 image positions for 0 patches"),
        (Prompt([1], [Patches(np.zeros((1, 48)), (1, 1))], [0]), greedy(1), "no vision tower"),
        (Prompt([1]), SamplingParams(stop=("x",)), "tokenizer"),
    ],
)
def test_wrong_prompts_are_named(tiny: Decoder, prompt: Prompt, params: SamplingParams, said: str) -> None:
    with pytest.raises(InputError, match=said):
        generate(tiny, [prompt], params, end_ids=[])


def test_damaged_weights_are_said(tiny: Decoder) -> None:
    broken = Decoder(tiny.config)
    torch.nn.init.constant_(broken.layers[0].mlp.up.weight, math.nan)
    with pytest.raises(DataError, match="not finite"):
        generate(broken, [Prompt([1])], greedy(1), end_ids=[])


# -- sampling ------------------------------------------------------------------------------------


def expected(logits: list[float], params: SamplingParams) -> np.ndarray:
    """The distribution, token by token in plain Python."""
    weights = [math.exp(logit / params.temperature) for logit in logits]
    order = sorted(range(len(logits)), key=lambda token: (-weights[token], token))
    kept = order[: params.top_k or len(order)]
    mass = sum(weights[token] for token in kept)
    nucleus, held = [], 0.0
    for token in kept:
        if held >= params.top_p * mass:
            break
        nucleus.append(token)
        held += weights[token]
    nucleus = [token for token in nucleus if weights[token] >= params.min_p * max(weights)]
    held = sum(weights[token] for token in nucleus)
    return np.array([weights[t] / held if t in nucleus else 0.0 for t in range(len(logits))])


LOGITS = [0.3, -1.0, 2.0, 1.1, 0.3, -3.0, 1.9]


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0}, {"temperature": 0.5}, {"temperature": 2.0, "top_k": 4},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_p": 0.7}, {"temperature": 1.3, "top_k": 5, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.2}, {"temperature": 1.0, "min_p": 0.1, "top_p": 0.9},
    ],
    ids=str,
)  # fmt: skip
def test_draws_have_the_distribution(sampling: dict[str, Any]) -> None:
    params, n = SamplingParams(**sampling, seed=5), 12_000
    draws = [Draw(params, index % 100, (), [0] * (index // 100)) for index in range(n)]
    drawn = choose(torch.tensor([LOGITS]).expand(n, -1), draws)
    counts = np.bincount([choice.token for choice in drawn], minlength=len(LOGITS))
    wanted = expected(LOGITS, params)
    possible = wanted > 0
    for token, logprob, kept in set(drawn):
        assert logprob == pytest.approx(math.log(wanted[token]), abs=1e-6) and kept == possible.sum()
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert scipy.stats.chisquare(counts[possible], wanted[possible] * n).pvalue > 1e-3


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    logits=st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=9, unique=True),
    top_k=st.integers(0, 10),
    top_p=st.floats(0.01, 1.0),
)
def test_truncation_is_the_definition(logits: list[float], top_k: int, top_p: float) -> None:
    params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p)
    weights, ids = truncated(torch.tensor(logits, dtype=torch.float64), params)
    found = np.zeros(len(logits))
    found[np.arange(len(logits)) if ids is None else ids.numpy()] = (weights / weights.sum()).numpy()
    wanted = expected(logits, params)
    # Where the held mass meets top_p to the last bit, rounding may keep one token more or less.
    if not np.array_equal(found > 0, wanted > 0):
        assert abs(np.sort(np.cumsum(np.sort(wanted)[::-1])) - top_p).min() < 1e-9
    else:
        assert found == pytest.approx(wanted, abs=1e-12)


def test_random_numbers_are_uniform_and_their_own() -> None:
    numbers = [uniform(seed, number, at) for seed in range(8) for number in range(25) for at in range(25)]
    assert len(set(numbers)) == len(numbers) and all(0 <= number < 1 for number in numbers)
    assert scipy.stats.kstest(numbers, "uniform").pvalue > 1e-3
    large = [uniform(-1, (1 << 63) + number, 5) for number in range(9)]
    assert len(set(large)) == 9, "numbers of 64 bits keep their last ones"


def test_a_tiny_temperature_is_greedy() -> None:
    logits = torch.tensor([LOGITS])
    for params in (SamplingParams(temperature=1e-6), SamplingParams()):
        assert choose(logits, [Draw(params, 0, (), ())]) == [Choice(2, 0.0, 1)]


def test_bias_penalties_and_what_is_allowed_change_the_scores() -> None:
    """Against the definitions, token by token."""
    params = SamplingParams(
        logit_bias=((3, 5.0), (99, 1.0)), presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0
    )
    prompt, reply = [0, 1], [2, 2, 5]
    allowed = torch.tensor([True] * 6 + [False])
    scores = adjusted(torch.tensor(LOGITS, dtype=torch.float64), Draw(params, 0, prompt, reply, allowed))
    wanted = list(LOGITS)
    wanted[3] += 5.0
    for token in {*prompt, *reply}:
        wanted[token] = wanted[token] / 2 if wanted[token] > 0 else wanted[token] * 2
    for token in set(reply):
        wanted[token] -= 0.5 + 0.25 * reply.count(token)
    wanted[6] = -math.inf
    assert scores.tolist() == pytest.approx(wanted)
    [choice] = choose(torch.tensor([LOGITS]), [Draw(params, 0, prompt, reply, allowed)])
    assert choice == Choice(3)
    warm = replace(params, temperature=0.5)
    [choice] = choose(torch.tensor([LOGITS]), [Draw(warm, 0, prompt, reply, allowed)])
    shares = scipy.special.log_softmax(2 * np.array(wanted))
    assert choice.logprob == pytest.approx(shares[choice.token]) and choice.kept == 6


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    params = SamplingParams(temperature=1.0, top_p=0.9, seed=3)
    draws = [Draw(params, number, (), [1, 2]) for number in range(3)]
    assert choose(rows, draws) == [choose(rows[i : i + 1], [draws[i]])[0] for i in range(3)]


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_of_a_large_vocabulary_is_that_of_the_sorted_one(spread: float, top_p: float) -> None:
    scores = spread * torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores[100:200] = scores.max()  # equal ones come in the order of their ids
    weights, ids = truncated(scores, SamplingParams(top_p=top_p))
    order = sorted(range(len(scores)), key=lambda token: (-float(scores[token]), token))
    shares = (scores - scores.max()).exp()[order]
    held = shares.cumsum(0) - shares < top_p * shares.sum()
    assert ids is not None
    kept = int(held.sum())
    assert abs(int((weights > 0).sum()) - kept) <= 1  # sums of other order may part at the very border
    assert ids[: kept - 1].tolist() == order[: kept - 1]
    torch.testing.assert_close(weights[: kept - 1], shares[: kept - 1])
