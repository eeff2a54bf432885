"""Tokens/s through HTTP, streamed, against llama.cpp's own server and transformers' generate.

    python bench/serve.py [--rounds 3] [--device cpu] [--no-llama] [--quickstart DIR]

Needs: pip install -e '.[bench]'.

A Qwen3-0.6B-shaped model with random weights is written once, as a directory and as GGUF files of the
same numbers: BF16, Q8_0 and Q4_0 with every matrix quantised, which is the group size and the bits per
weight of our int4. A round is every server once, in turn, ours and llama.cpp's; the median of the rounds
counts. Prompts are token ids drawn anew for each request, replies have a set length, greedy; a figure is
reply tokens over the time from the first byte sent to the last received.

transformers' generate runs the mixed load request by request and as one padded batch, and the load
with a common prefix request by request, of which it runs a part: its time is in proportion.

The limit is the rate at which the device reads memory, measured in every round: a token of one
sequence reads all matrices once. What engine and API take of a step is the engine's own count and the
API process's CPU time, over as many steps as it takes for the clock's ticks not to matter.

Everything runs on the one device that --device names, cpu unless said otherwise. llama.cpp is built for
CPUs here: on cuda it is left out, and so are the claims about it. Every claim gets its verdict at the end;
the exit code is 1 where one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import psutil
from _record import keep
from _serve_peers import LLAMA, generate, llama_server, quantised_gguf, write_gguf, write_model
from _verdicts import Verdict, judged, tell
from rich.console import Console
from rich.table import Table

from whorl.evals.serving import served

SHAPE = {"vocab_size": 151936, "d_model": 1024, "n_layers": 28, "n_heads": 16, "n_kv_heads": 8,
         "head_dim": 128, "d_ff": 3072, "context": 4096}  # fmt: skip
QUICKSTART_SHAPE = {"vocab_size": 4096, "d_model": 320, "n_layers": 6, "n_heads": 5, "n_kv_heads": 5,
                    "head_dim": 64, "d_ff": 864, "context": 1024}  # fmt: skip
CLIENTS, SLOT = 16, 512  # clients at once; tokens of a conversation in llama.cpp's slots
PREFIX, SHARERS = 1000, 32
GENERATED = 4  # requests of a load that generate runs one by one
KINDS = {"bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}  # ours: llama.cpp's
TARGETS = {("bfloat16", "one"): 1.0, ("bfloat16", "sixteen"): 1.2, ("int8", "one"): 1.0,
           ("int8", "sixteen"): 1.2, ("int4", "one"): 0.9, ("int4", "sixteen"): 1.0}  # fmt: skip
GENERATE_TARGETS = {"mixed, one by one": 7, "mixed, one padded batch": 2, "shared, one by one": 5}
QUICKSTART_RATE, MOST_OVERHEAD = 500, 0.10
TICK = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01  # seconds, of a process's CPU time
TICKS, MOST_REPEATS = 100, 20  # of the API's time that an overhead is measured over; loads at most
WIDTH = 110


class Ask(NamedTuple):
    ids: list[int]
    reply: int


class Load(NamedTuple):
    """Requests that are sent at once."""

    name: str
    asks: list[Ask]

    @property
    def tokens(self) -> int:
        return sum(ask.reply for ask in self.asks)


def loads(seed: int) -> dict[str, list[Load]]:
    """By name; a load that is short comes several times."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(SHAPE["vocab_size"]) for _ in range(count)]

    prefix = ids(PREFIX)
    return {
        "one": [Load("one", [Ask(ids(32), 64)]) for _ in range(3)],
        "sixteen": [Load("sixteen", [Ask(ids(32), 64) for _ in range(CLIENTS)])],
        "mixed": [
            Load("mixed", [Ask(ids(draw.randint(16, 256)), draw.randint(16, 96)) for _ in range(CLIENTS)])
        ],
        "shared": [Load("shared", [Ask(prefix + ids(draw.randint(8, 24)), 8) for _ in range(SHARERS)])],
    }


# -- a client that costs little ----------------------------------------------------------------------


async def post(address: str, path: str, body: dict[str, Any]) -> bytes:
    """The body of the answer, as it came."""
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + data)
    answer = await reader.read(-1)
    writer.close()
    if b" 200 " not in answer[:20]:
        sys.exit(f"{address}{path} answered {answer[:500]!r}")
    return answer


def our_body(ask: Ask) -> dict[str, Any]:
    return {"prompt": ask.ids, "max_tokens": ask.reply, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip


def llama_body(ask: Ask) -> dict[str, Any]:
    """Greedy by the one sampler that needs: the default chain sorts and weighs the vocabulary as well."""
    return {"prompt": ask.ids, "n_predict": ask.reply, "samplers": ["top_k"], "top_k": 1, "ignore_eos": True,
            "stream": True, "cache_prompt": False}  # fmt: skip


def made(answer: bytes) -> int:
    """Tokens of a streamed reply, by the server's own count."""
    found = re.findall(rb'"(?:completion_tokens|tokens_predicted)":\s*(\d+)', answer)
    return int(found[-1]) if found else -1


@dataclass(frozen=True)
class Server:
    """A server to be started, and how it is asked."""

    name: str
    start: Any  # () -> context manager of an address
    path: str
    body: Any
    more: dict[str, Any] = field(default_factory=dict)

    def seconds(self, address: str, load: Load) -> float:
        async def all_at_once() -> list[bytes]:
            asked = (post(address, self.path, self.body(ask) | self.more) for ask in load.asks)
            return list(await asyncio.gather(*asked))

        begun = time.perf_counter()
        answers = asyncio.run(all_at_once())
        spent = time.perf_counter() - begun
        for ask, answer in zip(load.asks, answers, strict=True):
            if made(answer) != ask.reply:
                sys.exit(f"{self.name} made {made(answer)} tokens where {ask.reply} were asked for")
        return spent


def ours(directory: Path, device: str, *words: str) -> Server:
    def start() -> AbstractContextManager[str]:
        return served(directory, "--device", device, *words)

    return Server("whorl", start, "/v1/completions", our_body, {"model": directory.name})


def theirs(model: Path, threads: int) -> Server:
    def start() -> AbstractContextManager[str]:
        return llama_server(model, slots=CLIENTS, context=SLOT, threads=threads)

    return Server("llama.cpp", start, "/completion", llama_body)


# -- measuring -----------------------------------------------------------------------------------------


@dataclass
class Overhead:
    """Seconds of a step at full batch, and what of them the engine takes beside the model and the API
    beside the engine; over so many steps, of which a tick of the API's clock is `resolution` seconds each."""

    step: float
    engine: float
    api: float
    steps: int
    resolution: float


def counters(address: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in httpx.get(f"{address}/metrics").text.splitlines():
        if not line.startswith("#"):
            found[line.partition("{")[0]] = float(line.rpartition(" ")[2])
    return found


def api_seconds() -> float:
    """CPU time of our server's API process."""
    for process in psutil.Process().children():
        if "serve" in process.cmdline():
            return sum(process.cpu_times()[:2])
    return 0.0


def overhead_of(server: Server, address: str, load: Load) -> Overhead:
    before, busy = counters(address), api_seconds()
    for _ in range(MOST_REPEATS):
        server.seconds(address, load)
        api = api_seconds() - busy
        if api >= TICKS * TICK:
            break
    after = counters(address)
    change = {key: after[key] - before.get(key, 0.0) for key in after}
    steps = change["whorl_engine_steps_total"]
    engine = change["whorl_engine_engine_seconds_total"]
    model = change["whorl_engine_model_seconds_total"]
    return Overhead((model + engine) / steps, engine / steps, api / steps, int(steps), TICK / steps)


def measure(
    server: Server, wanted: Sequence[str], seed: int, *, with_overhead: bool = False
) -> tuple[dict[str, float], Overhead | None]:
    """Tokens/s of each load, median where it comes several times; and our overhead at sixteen."""
    rates: dict[str, float] = {}
    overhead = None
    drawn = loads(seed)
    with server.start() as address:
        for name in ("one", *(["sixteen"] if "sixteen" in wanted else [])):
            server.seconds(address, loads(-1)[name][0])  # warm: pages touched, tapes recorded
        for name in wanted:
            runs = [load.tokens / server.seconds(address, load) for load in drawn[name]]
            rates[name] = statistics.median(runs)
            if server.name == "whorl" and name == "sixteen" and with_overhead:
                overhead = overhead_of(server, address, drawn[name][0])
    return rates, overhead


def read_rate(threads: int, device: str) -> float:
    """Bytes/s at which the device's memory is read: the best of a few sums over 400 MB."""
    import torch

    torch.set_num_threads(threads)
    data = torch.ones(100_000_000, device=device)
    best = min(_timed(lambda: data.sum().item()) for _ in range(5))
    return data.numel() * data.itemsize / best


def _timed(function: Any) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def matrix_bytes(kind: str) -> float:
    """What one token of one sequence reads of the matrices."""
    d, head = SHAPE["d_model"], SHAPE["head_dim"]
    block = 2 * d * head * (SHAPE["n_heads"] + SHAPE["n_kv_heads"]) + 3 * d * SHAPE["d_ff"]
    weights = SHAPE["n_layers"] * block + SHAPE["vocab_size"] * d
    return weights * {"bfloat16": 2.0, "int8": 1.0, "int4": 4.5 / 8}[kind]


def rounds(
    directory: Path,
    gguf: Path | None,
    count: int,
    kinds: Sequence[str],
    threads: int,
    device: str,
    console: Console,
) -> dict[str, Any]:
    """Every server `count` times in turn: rates[kind][server][load] of each round."""
    rates: dict[str, dict[str, dict[str, list[float]]]] = {}
    overheads: list[Overhead] = []
    reads: list[float] = []
    for number in range(count):
        reads.append(read_rate(threads, device))
        for kind in kinds:
            quantised = [] if kind == "bfloat16" else ["--quantize", kind]
            pair = [ours(directory, device, "--dtype", "bfloat16", *quantised)]
            if gguf is not None:
                pair.append(
                    theirs(gguf if kind == "bfloat16" else quantised_gguf(gguf, KINDS[kind]), threads)
                )
            wanted = ["one", "sixteen"]
            for server in pair if number % 2 == 0 else pair[::-1]:
                more = ["mixed", "shared"] if kind == "bfloat16" and server.name == "whorl" else []
                found, overhead = measure(server, wanted + more, number, with_overhead=kind == "bfloat16")
                for load, rate in found.items():
                    seen = rates.setdefault(kind, {}).setdefault(server.name, {})
                    seen.setdefault(load, []).append(rate)
                if overhead is not None:
                    overheads.append(overhead)
                told = ", ".join(f"{load} {rate:.1f}" for load, rate in found.items())
                console.print(f"round {number + 1}, {kind}, {server.name}: {told} tokens/s", style="dim")
    return {"rates": rates, "overheads": overheads, "reads": reads}


def against_generate(directory: Path, threads: int, device: str, seed: int) -> dict[str, float]:
    """Tokens/s of transformers' generate on the mixed and the shared load."""

    def plain(asks: Sequence[Ask]) -> list[dict[str, Any]]:
        return [ask._asdict() for ask in asks]

    drawn = loads(seed)
    mixed, shared = drawn["mixed"][0], drawn["shared"][0]
    part = mixed.asks[:GENERATED]
    common = {"threads": threads, "device": device}
    found = generate(directory, {**common, "alone": plain(part), "batch": plain(mixed.asks)})
    rates = {
        "mixed, one by one": sum(ask.reply for ask in part) / found["alone"],
        "mixed, one padded batch": mixed.tokens / found["batch"],
    }
    part = shared.asks[:GENERATED]
    found = generate(directory, {**common, "alone": plain(part), "batch": []})
    return rates | {"shared, one by one": sum(ask.reply for ask in part) / found["alone"]}


# -- showing ---------------------------------------------------------------------------------------------


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def show(found: dict[str, Any], generated: dict[str, list[float]], console: Console) -> dict[str, float]:
    """The tables; returns the ratios."""
    ratios: dict[str, float] = {}
    read = middle(found["reads"])
    table = Table("weights", "clients", "whorl", "llama.cpp", "ratio", "at least", "of reading, batch 1")
    for kind, servers in found["rates"].items():
        for load in ("one", "sixteen"):
            mine = middle(servers["whorl"][load])
            peer = middle(servers["llama.cpp"][load]) if "llama.cpp" in servers else None
            if peer is not None:
                ratios[f"{kind}, {load}"] = mine / peer
            share = f"{mine * matrix_bytes(kind) / read:.0%}" if load == "one" else ""
            table.add_row(
                f"{kind} / {KINDS[kind]}", "1" if load == "one" else str(CLIENTS), f"{mine:.1f}",
                "" if peer is None else f"{peer:.1f}", "" if peer is None else f"{mine / peer:.2f}×",
                f"{TARGETS[kind, load]:.1f}×", share,
            )  # fmt: skip
    console.print(table)
    mine = found["rates"].get("bfloat16", {}).get("whorl", {})
    table = Table("load, bf16", "whorl", "transformers' generate", "ratio", "at least")
    for name, rate in generated.items():
        load, least = name.partition(",")[0], GENERATE_TARGETS[name]
        if load in mine:
            ratios[name] = middle(mine[load]) / middle(rate)
            table.add_row(
                name, f"{middle(mine[load]):.1f}", f"{middle(rate):.1f}", f"{ratios[name]:.1f}×", f"{least}×"
            )
    if generated:
        console.print(table)
    console.print(f"memory is read at {read / 1e9:.1f} GB/s (median of the rounds' best)")
    for one in found["overheads"][-1:]:
        console.print(
            f"a step of {CLIENTS}: {one.step * 1e3:.1f} ms, engine {one.engine / one.step:.1%}, API process"
            f" {one.api / one.step:.1%} ± {one.resolution / one.step:.2%} (over {one.steps:,} steps, a tick"
            f" of {TICK * 1e3:g} ms)", soft_wrap=True,
        )  # fmt: skip
    return ratios


def verdicts(
    ratios: dict[str, float], found: dict[str, Any], fast: dict[str, list[float]], kinds: Sequence[str],
    weights: str,
) -> list[Verdict]:  # fmt: skip
    """Of every target; what the options left out says so."""

    def at_least(name: str, claim: str, target: float) -> Verdict:
        if name not in ratios:
            return Verdict(f"{claim}: at least {target:.1f}×", "", "left out")
        return judged(f"{claim}: at least {target:.1f}×", f"{ratios[name]:.2f}×", ratios[name] >= target)

    clients = {"one": "1 client", "sixteen": f"{CLIENTS} clients"}
    made = [
        at_least(f"{kind}, {load}", f"{kind} against llama.cpp's {KINDS[kind]}, {clients[load]}", target)
        for (kind, load), target in TARGETS.items()
    ]
    made += [at_least(name, f"bf16 against generate, {name}", of) for name, of in GENERATE_TARGETS.items()]
    claim = f"engine and API under {MOST_OVERHEAD:.0%} of a step of {CLIENTS}"
    if "bfloat16" in kinds:
        shares = [(one.engine + one.api) / one.step for one in found["overheads"]]
        made.append(judged(claim, f"{middle(shares):.1%}", middle(shares) < MOST_OVERHEAD))
    else:
        made.append(Verdict(claim, "", "left out"))
    rate = middle(fast["one"])
    claim = f"quickstart's size ({weights}), 1 client: at least {QUICKSTART_RATE} tokens/s"
    return [*made, judged(claim, f"{rate:,.0f}", rate >= QUICKSTART_RATE)]


def quickstart(
    directory: Path, count: int, device: str, weights: str, console: Console
) -> dict[str, list[float]]:
    """The small model through HTTP: tokens/s alone and with sixteen clients."""
    vocabulary = json.loads((directory / "config.json").read_text())
    size = vocabulary.get("vocab_size") or vocabulary["text_config"]["vocab_size"]
    seen: dict[str, list[float]] = {"one": [], "sixteen": []}
    server = ours(directory, device, "--dtype", "bfloat16")
    for number in range(count):
        draw = random.Random(number)
        with server.start() as address:
            for name, clients, reply in (("one", 1, 400), ("sixteen", CLIENTS, 200)):
                asks = [Ask([draw.randrange(size) for _ in range(32)], reply) for _ in range(clients)]
                server.seconds(address, Load(name, asks))
                runs = [clients * reply / server.seconds(address, Load(name, asks)) for _ in range(3)]
                seen[name].append(statistics.median(runs))
    console.print(
        f"quickstart's size ({weights}), bf16, through HTTP: {middle(seen['one']):,.0f} tokens/s alone,"
        f" {middle(seen['sixteen']):,.0f} with {CLIENTS} clients", soft_wrap=True,
    )  # fmt: skip
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each server runs, in turn")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where all of it runs")
    parser.add_argument("--no-llama", action="store_true", help="without llama.cpp")
    parser.add_argument("--no-generate", action="store_true", help="without transformers")
    parser.add_argument("--quickstart", type=Path, help="its model; default: random weights of its shape")
    parser.add_argument(
        "--folder", type=Path, help="where models are written and kept; default: a temporary one"
    )
    parser.add_argument("--dry", action="store_true", help="append nothing to bench/results")
    options = parser.parse_args()
    if options.rounds < 1:
        sys.exit(f"--rounds must be 1 or more, not {options.rounds}")
    device, llama = options.device, not options.no_llama and options.device == "cpu"
    gpu = gpu_name(device)
    weights = "random weights" if options.quickstart is None else f"the model of {options.quickstart.name}"
    console = Console(width=max(WIDTH, Console().width))
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="whorl-bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        directory, small, gguf = (
            folder / "qwen3-0.6b-shape",
            folder / "quickstart-shape",
            folder / "shape.gguf",
        )
        for path, shape in ((directory, SHAPE), (small, QUICKSTART_SHAPE)):
            if not path.exists():
                write_model(path, shape)
        if llama and not gguf.exists():
            write_gguf(directory, gguf)
        fast = quickstart(options.quickstart or small, options.rounds, device, weights, console)
        found = rounds(
            directory, gguf if llama else None, options.rounds, options.kinds, threads, device, console
        )
        generated: dict[str, list[float]] = {}
        for number in range(0 if options.no_generate else options.rounds):
            for name, rate in against_generate(directory, threads, device, number).items():
                generated.setdefault(name, []).append(rate)
    ratios = show(found, generated, console)
    if not options.dry:
        keep("serve", {
            "rates": found["rates"], "generate": generated, "quickstart": fast, "ratios": ratios,
            "overheads": [vars(one) for one in found["overheads"]],
            "read_bytes_per_second": found["reads"], "model": SHAPE, "rounds": options.rounds,
            "threads": threads, "llama-cpp-python": LLAMA if llama else None, "device": device, "gpu": gpu,
            "quickstart_weights": weights,
        }, ("torch", "transformers"))  # fmt: skip
    sys.exit(tell(verdicts(ratios, found, fast, options.kinds, weights), console))


def gpu_name(device: str) -> str | None:
    if device == "cpu":
        return None
    import torch

    if not torch.cuda.is_available():
        sys.exit("--device cuda: torch finds no GPU here; leave it out to run on the CPU")
    return str(torch.cuda.get_device_name(0))


if __name__ == "__main__":
    main()
