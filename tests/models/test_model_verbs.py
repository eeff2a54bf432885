"""`whorl model info | export | merge`: through the command, on real directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.conftest import small_config
from tests.models.oracles import stir, tokens
from whorl.cli.main import main
from whorl.models import Decoder, LoraConfig, Packed, inject, load, save, save_adapter, weight_version
from whorl.text import ChatTemplate, train_bpe


def whorl(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["model", *words])
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def logits(model: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(tokens(30), Packed([30])))


@pytest.fixture
def chat_model(tmp_path: Path) -> Path:
    tokenizer = train_bpe(["to be or not to be"] * 20, 320)
    torch.manual_seed(0)
    model = Decoder(small_config(vocab_size=tokenizer.vocab_size))
    stir(model)
    path = tmp_path / "chat"
    save(model, path, tokenizer, template=ChatTemplate.default().with_args(mood="calm"))
    return path


def test_info(chat_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = whorl(capsys, "info", str(chat_model), "--json")
    found: dict[str, Any] = json.loads(out)
    model = load(chat_model)
    assert code == 0
    assert found["family"] == "qwen3"
    assert found["parameters"]["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["weight_version"] == weight_version(chat_model)
    assert (found["context"], found["compute_dtype"], set(found["stored_dtypes"])) == (64, "float32", {"F32"})
    assert found["template"]["args"] == {"mood": "calm"}
    assert found["tokenizer"]["end_tokens"]
    code, out, _ = whorl(capsys, "info", str(chat_model))
    assert code == 0
    for part in ("qwen3", "64 tokens", weight_version(chat_model), "d_model 32"):
        assert part in out


def test_info_is_a_check(chat_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = chat_model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    code, out, err = whorl(capsys, "info", str(chat_model))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert str(file) in err


def test_export(chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "half"
    code, text, _ = whorl(
        capsys, "export", str(chat_model), str(out), "--dtype", "bfloat16", "--shard-gb", "2e-5", "--json"
    )
    assert code == 0
    assert json.loads(text) == {"out": str(out), "weight_version": weight_version(out)}
    assert len(list(out.glob("*.safetensors"))) > 1
    half, whole = load(out), load(chat_model)
    assert torch.equal(half.embed.weight, whole.embed.weight.to(torch.bfloat16))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (chat_model / name).read_bytes()
    code, _, err = whorl(capsys, "export", str(chat_model), str(out))
    assert code == 2
    assert "already exists" in err


def test_export_to_another_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Decoder(small_config(qk_norm=False))
    stir(model)
    save(model, tmp_path / "plain")
    assert (
        whorl(capsys, "export", str(tmp_path / "plain"), str(tmp_path / "other"), "--family", "mistral")[0]
        == 0
    )
    assert json.loads((tmp_path / "other" / "config.json").read_text())["model_type"] == "mistral"
    assert torch.equal(logits(load(tmp_path / "other")), logits(load(tmp_path / "plain")))
    code, _, err = whorl(
        capsys, "export", str(tmp_path / "plain"), str(tmp_path / "no"), "--family", "gemma2"
    )
    assert code == 2
    assert "gemma2 has no" in err
    assert not (tmp_path / "no").exists()


def test_merge(chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = inject(load(chat_model), LoraConfig(rank=4))
    stir(model, seed=2)
    save_adapter(model, tmp_path / "adapter")
    expected = logits(load(chat_model, adapter=tmp_path / "adapter"))
    code, _, _ = whorl(capsys, "merge", str(chat_model), str(tmp_path / "adapter"), str(tmp_path / "merged"))
    assert code == 0
    merged = logits(load(tmp_path / "merged"))
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)
    assert (merged - logits(load(chat_model))).abs().max() > 0.1
    assert (tmp_path / "merged" / "chat_template.jinja").exists()
