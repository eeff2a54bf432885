"""What bench/serve.py compares with: the model's shape as directories and GGUF files, llama.cpp's own
server, and transformers' generate.

llama.cpp comes as the sources inside llama-cpp-python's source distribution, of which its HTTP server
and its quantiser are built with CMake for this CPU, once (minutes); they are kept in the user's cache.
One line is added to its sources: GCC before 13 believes that loading a tile configuration reads 8 bytes
of it and leaves out the stores of the rest, and llama.cpp's int8 matmuls on AMX then end the process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

LLAMA = "0.3.36"  # of llama-cpp-python
PROGRAMS = ("llama-server", "llama-quantize")
LOAD_TILES = "_tile_loadconfig(&tc);"
START_SECONDS = 300
CONFIGURE = (
    "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF",
)  # fmt: skip


def llama() -> Path:
    """The folder with llama.cpp's programs, built when it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "whorl" / "bench" / f"llama-{LLAMA}"
    if all((place / name).exists() for name in PROGRAMS):
        return place
    missing = [tool for tool in ("cmake", "ninja", "g++") if shutil.which(tool) is None]
    if missing:
        sys.exit(
            f"llama.cpp is built with {', '.join(missing)}; install it, or leave llama.cpp out: --no-llama"
        )
    print("building llama.cpp for this CPU, once; minutes …", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        wanted = [f"llama-cpp-python=={LLAMA}", "--no-deps", "--no-binary", ":all:", "-d", folder]
        _run(sys.executable, "-m", "pip", "download", "-q", *wanted)
        [archive] = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
        [sources] = Path(folder).glob("*/vendor/llama.cpp")
        tiles = sources / "ggml" / "src" / "ggml-cpu" / "amx" / "mmq.cpp"
        stores = f'asm volatile("" : : "r"(&tc) : "memory"); {LOAD_TILES}'
        tiles.write_text(tiles.read_text().replace(LOAD_TILES, stores))
        build = Path(folder) / "build"
        _run("cmake", "-S", str(sources), "-B", str(build), *CONFIGURE)
        _run("cmake", "--build", str(build), "--target", *PROGRAMS)
        place.mkdir(parents=True, exist_ok=True)
        for name in PROGRAMS:
            shutil.copy2(build / "bin" / name, place / name)
    return place


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}")


# -- the model -------------------------------------------------------------------------------------


def write_model(directory: Path, shape: dict[str, Any]) -> None:
    """Random weights of a Qwen3 shape in bf16, with a byte-level tokenizer filled up to its vocabulary."""
    import torch

    from whorl.models.config import ModelConfig
    from whorl.models.decoder import Decoder
    from whorl.models.directory import save
    from whorl.text.bpe import train_bpe

    tokenizer = train_bpe([Path(json.__file__).read_text()], 400)
    torch.manual_seed(0)
    config = ModelConfig(**shape, qk_norm=True, tied=True)
    model = Decoder(config, torch.bfloat16).to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # embedding rows of length 1: logits neither flat nor certain
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if "embed" in name else 0.02)
    save(model, directory, tokenizer, family="qwen3")
    path = directory / "tokenizer.json"
    described = json.loads(path.read_text())
    words = described["model"]["vocab"]
    taken = len(words) + sum(one["content"] not in words for one in described["added_tokens"])
    words |= {f"unused{number}": number for number in range(taken, shape["vocab_size"])}
    path.write_text(json.dumps(described))


def write_gguf(directory: Path, path: Path) -> None:
    """The same weights, in bf16, as llama.cpp reads them."""
    import gguf
    from safetensors import safe_open

    config = json.loads((directory / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer.add_rope_freq_base(float(rope))
    _add_tokenizer(writer, directory, config["vocab_size"])
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors file is no dictionary
                if name != "lm_head.weight":  # tied
                    _add_tensor(writer, name, tensors.get_tensor(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, directory: Path, vocabulary: int) -> None:
    described = json.loads((directory / "tokenizer.json").read_text())
    words = {number: word for word, number in described["model"]["vocab"].items()}
    control = {one["id"]: one["content"] for one in described["added_tokens"]}
    words |= control
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([words.get(number, f"none{number}") for number in range(vocabulary)])
    writer.add_token_types([3 if number in control else 1 for number in range(vocabulary)])
    merges = described["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_eos_token_id(next(iter(control), 0))


PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _add_tensor(writer: Any, name: str, value: Any) -> None:
    import gguf
    import torch

    if name.startswith("model.layers."):
        number, _, part = name.removeprefix("model.layers.").partition(".")
        name = f"blk.{number}.{PARTS[part.removesuffix('.weight')]}.weight"
    else:
        name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[
            name
        ]
    if value.ndim == 1:
        writer.add_tensor(name, value.float().numpy())
        return
    raw = value.bfloat16().contiguous().view(torch.int16).numpy().view(np.uint8)
    writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)


def quantised_gguf(path: Path, kind: str) -> Path:
    """`kind` Q8_0 or Q4_0: every matrix, the tied output matrix too."""
    made = path.with_name(f"{path.stem}-{kind}.gguf")
    if not made.exists():
        _run(str(llama() / "llama-quantize"), "--pure", str(path), str(made), kind)
    return made


# -- servers ---------------------------------------------------------------------------------------


@contextmanager
def llama_server(model: Path, *, slots: int, context: int, threads: int) -> Iterator[str]:
    """llama.cpp's server with `slots` of `context` tokens each, batching continuously."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(llama() / "llama-server"), "-m", str(model), "--host", "127.0.0.1", "--port", str(port),
        "-np", str(slots), "-c", str(slots * context), "--no-kv-unified", "-t", str(threads),
        "-tb", str(threads), "--no-ui", "--cache-ram", "0", "-ctk", "bf16", "-ctv", "bf16",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(process, address, log)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _wait(process: subprocess.Popen[bytes], address: str, log: Any) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            log.seek(0)
            sys.exit(f"llama-server did not start:\n{log.read().decode(errors='replace')[-2000:]}")
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    sys.exit("llama-server did not start in time")


# -- transformers ----------------------------------------------------------------------------------


def generate_child(directory: Path, work: dict[str, Any]) -> dict[str, float]:
    """Seconds of transformers' generate for the requests one by one, and as padded batches."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(work["threads"])
    device = work["device"]
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval().to(device)

    def run(requests: list[dict[str, Any]]) -> None:
        longest, replies = max(len(one["ids"]) for one in requests), max(one["reply"] for one in requests)
        pads = [longest - len(one["ids"]) for one in requests]
        ids = torch.tensor([[0] * pad + one["ids"] for pad, one in zip(pads, requests, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])
        ids, mask = ids.to(device), mask.to(device)
        with torch.inference_mode():
            made = model.generate(
                ids, attention_mask=mask, max_new_tokens=replies, min_new_tokens=replies, do_sample=False,
                pad_token_id=0, eos_token_id=None,
            )  # fmt: skip
        assert made.cpu().shape[1] == longest + replies  # and all of it is done

    run([{"ids": [1, 2, 3], "reply": 2}])
    seconds = {}
    begun = time.perf_counter()
    for one in work["alone"]:
        run([one])
    seconds["alone"] = time.perf_counter() - begun
    if work["batch"]:
        begun = time.perf_counter()
        run(work["batch"])
        seconds["batch"] = time.perf_counter() - begun
    return seconds


def generate(directory: Path, work: dict[str, Any]) -> dict[str, float]:
    """`generate_child` in a process of its own."""
    command = [sys.executable, __file__, str(directory)]
    done = subprocess.run(command, input=json.dumps(work), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"transformers' generate failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(generate_child(Path(sys.argv[1]), json.load(sys.stdin))))
