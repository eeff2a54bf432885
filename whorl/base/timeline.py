"""What happened in a run, each event in a line that a person reads; its kind stands before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from whorl.base.events import KINDS
from whorl.base.progress import duration, figure
from whorl.base.results import meets, written, written_error, written_floor

Event = dict[str, Any]
LONGEST = 100  # characters of one value


def event_line(event: Event) -> str:
    """An event in words. One of a kind that is not known here (a newer Whorl's) has its fields listed."""
    known = TOLD.get(event["kind"])
    if known is None:
        return _fields(event)
    fields = KINDS[event["kind"]].model_fields
    older = {key: one.default for key, one in fields.items() if not one.is_required() and key != "step"}
    return known({**older, **event})  # a run from before a field was added does not have it


def result_row(event: Event) -> tuple[str, str, str, str]:
    """(name, figure with its error, floor, "met" | "missed" | "")."""
    value, unit, floor, lower = event["value"], event["unit"], event["floor"], event["lower_is_better"]
    error = f" ± {written_error(event['error'], unit)}" if event["error"] else ""
    cases = f" (n = {event['cases']:,})" if event["cases"] else ""
    measured = f"{written(value, unit)}{error}{cases}"
    if floor is None:
        return event["name"], measured, "", ""
    verdict = "met" if meets(value, floor, lower_is_better=lower) else "missed"
    return event["name"], measured, written_floor(floor, unit, lower_is_better=lower), verdict


def _result(event: Event) -> str:
    name, measured, floor, verdict = result_row(event)
    return f"{name}: {measured}" + (f", {floor}: {verdict}" if floor else "")


def _start(event: Event) -> str:
    return " ".join(event["command"])


def _measured(event: Event) -> str:
    figures = ", ".join(f"{name} {figure(value)}" for name, value in event["figures"].items())
    why = ": ".join(part for part in (event["unit"], figures) if part) or event["reason"]
    return f"{event['what']}: {event['choice']}" + (f" ({why})" if why else "")


def _compiled(event: Event) -> str:
    return f"in {duration(event['seconds'])}" + (f", {event['graphs']} graphs" if event["graphs"] else "")


def _stage(event: Event) -> str:
    planned = duration(event["budget"]) if event["budget"] else ""
    if event["state"] == "begin":
        return f"{event['name']} begins" + (f", with {planned} to go" if planned else "")
    memory = f", {event['memory'] / 1e9:.2f} GB peak so far" if event["memory"] else ""
    text = f"; {_short(event['text'])}" if event["text"] else ""
    took = f"{duration(event['seconds'])} of {planned}" if planned else duration(event["seconds"])
    return f"{event['name']} ended after {took}{memory}{text}"


def _data(event: Event) -> str:
    counts = ", ".join(f"{value:,.0f} {name}" for name, value in event["counts"].items())
    hashed = f"hash {event['hash'][:12]}" if event["hash"] else ""
    told = ", ".join(part for part in (counts, hashed) if part)
    return f"{_short(event['name'])}: {told}" if told else _short(event["name"])


def _validated(event: Event) -> str:
    return ", ".join(f"{_words(name)} {value:.4g}" for name, value in event["values"].items()) + _after(event)


def _sample(event: Event) -> str:
    return f"{_short(event['prompt'])} → {_short(event['reply'])}{_after(event)}"


def _checkpoint(event: Event) -> str:
    size = f", {event['bytes'] / 1e6:,.1f} MB" if event["bytes"] else ""
    took = f" in {duration(event['seconds'])}" if event["seconds"] else ""
    return f"{_short(event['path'])}{size}{took}"


def _damaged(event: Event) -> str:
    return f"{_short(event['path'])} was not used: {_short(event['reason'])}"


def _resume(event: Event) -> str:
    place = f" ({event['checkpoint']})" if event["checkpoint"] else ""
    return f"went on{_after(event, word='from')}{place}"


def _torn(event: Event) -> str:
    return f"{event['file']}: a last line of {event['bytes']:,} bytes, cut short by a crash, was removed"


def _signal(event: Event) -> str:
    rank = f" to rank {event['rank']}" if event["rank"] else ""
    return f"{event['signal']}{rank}: saved and exited{_after(event)}"


def _text(event: Event) -> str:
    return _short(event["text"]) + (_after(event) if event.get("step", -1) >= 0 else "")


def _exported(event: Event) -> str:
    weights, adapter = event["weights"], event["adapter"]
    kind = f", weights {weights[:12]}" if weights else f", adapter {adapter[:12]}" if adapter else ""
    return f"{_short(event['path'])}{kind}" + (_after(event) if event.get("step", -1) >= 0 else "")


def _finish(event: Event) -> str:
    ends = {"signal": "stopped by a signal", "budget": "out of time", "fault": "ended with an error"}
    lasted = f" in {duration(event['seconds'])}" if event["seconds"] else ""
    step = _after(event) if event.get("step", -1) >= 0 else ""
    return f"{ends.get(event['reason'], event['reason'])}{lasted}{step}"


TOLD: dict[str, Callable[[Event], str]] = {
    "start": _start, "measured": _measured, "compiled": _compiled, "stage": _stage, "data": _data,
    "validated": _validated, "sample": _sample, "checkpoint": _checkpoint, "damaged": _damaged,
    "resume": _resume, "torn": _torn, "signal": _signal, "fault": _text, "note": _text, "result": _result,
    "exported": _exported, "finish": _finish,
}  # fmt: skip


def _after(event: Event, word: str = "after") -> str:
    """` after step 40`; nothing where the caller shows the step by itself."""
    return f" {word} step {event['step']:,}" if "step" in event else ""


def _fields(event: Event) -> str:
    defaults = KINDS[event["kind"]].model_fields if event["kind"] in KINDS else {}
    words = []
    for key, value in event.items():
        if key in ("kind", "time", "format") or (key in defaults and defaults[key].default == value):
            continue
        words.append(f"{_words(key)} {_short(value)}")
    return ", ".join(words)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
