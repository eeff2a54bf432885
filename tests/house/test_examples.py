"""CONTRIBUTING.md's four examples do what it says, by name, in the real rooms."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from whorl.base.config import resolve
from whorl.base.nouns import Message, Trace
from whorl.tasks import Task
from whorl.tools import Tool

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"


def test_contributing_names_every_example_and_only_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"examples/\w+\.py", text))
    assert named == {path.relative_to(ROOT).as_posix() for path in EXAMPLES.glob("*.py")}
    for path in re.findall(r"`((?:whorl|tests|docs|bench)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_a_filter_by_file_and_name_in_a_data_run(tmp_path: Path) -> None:
    from whorl.base.config import load_config
    from whorl.data.config import DataConfig
    from whorl.data.pipeline import run_config

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "calm.txt").write_text("A whorl keeps the spindle turning.")
    (tmp_path / "in" / "loud.txt").write_text("BUY THREAD NOW AND SAVE A LOT")
    words = ["--paths", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]
    name = f"{EXAMPLES / 'filter_shouting.py'}:quiet"
    report = run_config(load_config(DataConfig, None, [*words, "--filters", name, "--split.validation", "0"]))
    assert report.documents == 1
    assert report.reasons[name] == {"shouting": 1}


def test_a_task_grades_its_own_references_right_and_others_wrong() -> None:
    task = resolve(f"{EXAMPLES / 'task_spelling.py'}:task")
    assert isinstance(task, Task)
    ids: dict[str, set[str]] = {}
    for split in ("train", "test"):
        examples = list(task.examples(split))
        ids[split] = {example.id for example in examples}
        for example in examples:
            right = Trace(message=Message(role="assistant", content=(example.reference,)))
            wrong = Trace(message=Message(role="assistant", content=("no idea",)))
            assert asyncio.run(task.grade(example, right)).score == 1
            grade = asyncio.run(task.grade(example, wrong))
            assert (grade.score, grade.reason != "") == (0, True)
    assert not ids["train"] & ids["test"]


def test_a_tool_describes_itself_runs_and_answers_with_its_errors() -> None:
    tool = resolve(f"{EXAMPLES / 'tool_convert.py'}:convert_tool")
    assert isinstance(tool, Tool)
    function = tool.schema["function"]
    assert function["description"] == "Convert a length."
    assert function["parameters"]["required"] == ["value", "unit", "into"]
    assert tool.call({"value": 26.2, "unit": "mi", "into": "km"}) == "42.1648 km"
    assert tool.call({"value": 1, "unit": "ell", "into": "m"}).startswith("error: convert: no unit 'ell'")


def test_a_family_has_transformers_logits_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers: Any = pytest.importorskip("transformers")
    from whorl.models import Packed, families, load, save

    family = resolve(f"{EXAMPLES / 'family_phi3.py'}:FAMILY")
    monkeypatch.setitem(families.FAMILIES, family.model_type, family)
    sizes = {"vocab_size": 67, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    none = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(0)
    theirs = transformers.Phi3ForCausalLM(transformers.Phi3Config(**sizes, **heads, **none)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "theirs")
    tokens = torch.randint(67, (20,))
    with torch.no_grad():
        expected = theirs(tokens[None]).logits[0]
        model = load(tmp_path / "theirs")
        torch.testing.assert_close(model.logits(model(tokens, Packed([20]))), expected, atol=1e-4, rtol=0)

    # The same weights are a Llama's; asked for phi3, they are stacked again and transformers reads them.
    save(model, tmp_path / "ours", family="phi3")
    back = transformers.Phi3ForCausalLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        torch.testing.assert_close(back(tokens[None]).logits[0], expected, atol=1e-4, rtol=0)
