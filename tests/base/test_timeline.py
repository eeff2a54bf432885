"""The timeline speaks in words: every kind of event, also as an older run has it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from whorl.base.events import KINDS, check_event
from whorl.base.timeline import TOLD, event_line

EVENTS: list[tuple[str, dict[str, Any], str]] = [
    (
        "result",
        {"name": "held-out bits per byte", "value": 2.8714, "unit": "bits/byte", "error": 0.0213,
         "cases": 6208, "floor": 3.0, "lower_is_better": True},
        "held-out bits per byte: 2.87 bits/byte ± 0.021 (n = 6,208), < 3.00 bits/byte: met",
    ),
    ("result", {"name": "loss", "value": 1.25}, "loss: 1.25"),
    (
        "checkpoint", {"step": 40, "path": "step-00000040", "bytes": 12_300_000, "seconds": 0.4},
        "step-00000040, 12.3 MB in 0.4 s",
    ),
    (
        "exported", {"path": "runs/a/model", "weights": "0123456789abcdef", "step": 1200},
        "runs/a/model, weights 0123456789ab after step 1,200",
    ),
    ("exported", {"path": "m", "adapter": "ab" * 9}, "m, adapter abababababab"),
    ("stage", {"name": "chat", "state": "begin", "budget": 90.0}, "chat begins, with 1 min 30 s to go"),
    (
        "stage", {"name": "chat", "seconds": 80.0, "budget": 90.0, "memory": 3_390_000_000},
        "chat ended after 1 min 20 s of 1 min 30 s, 3.39 GB peak so far",
    ),
    ("measured", {"what": "dtype", "choice": "bfloat16", "figures": {"bfloat16": 2e12}, "unit": "FLOP/s"},
     "dtype: bfloat16 (FLOP/s: bfloat16 2T)"),
    ("measured", {"what": "compile", "choice": "off", "reason": "no compiler"}, "compile: off (no compiler)"),
    ("compiled", {"seconds": 5.5}, "in 5.5 s"),
    ("data", {"name": "preference pairs", "counts": {"pairs": 239, "silent": 2}},
     "preference pairs: 239 pairs, 2 silent"),
    ("validated", {"step": 3, "values": {"validation_loss": 1.5}}, "validation loss 1.5 after step 3"),
    ("sample", {"step": 3, "prompt": "a", "reply": "b"}, "a → b after step 3"),
    ("damaged", {"path": "step-1", "reason": "short"}, "step-1 was not used: short"),
    ("resume", {"step": 7, "checkpoint": "step-7"}, "went on from step 7 (step-7)"),
    ("torn", {"file": "events.jsonl", "bytes": 9},
     "events.jsonl: a last line of 9 bytes, cut short by a crash, was removed"),
    ("signal", {"step": 7, "signal": "SIGTERM"}, "SIGTERM: saved and exited after step 7"),
    ("fault", {"text": "the disk is full"}, "the disk is full"),
    ("note", {"text": "lr changed", "step": 2}, "lr changed after step 2"),
    ("finish", {"step": 14, "seconds": 61.0}, "done in 1 min 1 s after step 14"),
    ("finish", {"reason": "signal"}, "stopped by a signal"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields", "told"), EVENTS, ids=lambda value: str(value)[:20])
def test_an_event_is_a_line_of_words(kind: str, fields: dict[str, Any], told: str) -> None:
    assert event_line({"kind": kind, "time": 0.0, **check_event(kind, fields)}) == told
    assert event_line({"kind": kind, "time": 0.0, **fields}) == told, "as a run has it without newer fields"
    names = set(KINDS[kind].model_fields)
    spoken = {word for word in re.findall(r"[a-z_]+", told) if "_" in word}
    assert not spoken & names


def test_every_kind_is_told_and_an_unknown_one_is_listed() -> None:
    assert set(TOLD) == set(KINDS) == {kind for kind, _, _ in EVENTS} | {"start"}
    assert event_line({"kind": "newer", "time": 0.0, "some_thing": 3, "step": 1}) == "some thing 3, step 1"
