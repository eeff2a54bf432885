"""Replies held to a grammar: JSON schemas, regular expressions, Lark grammars and tool calls, by llguidance.

The functions that make a grammar need no tokenizer and no torch; they return llguidance's own text.
A grammar is checked where it is compiled, within limits of work and size, before the request runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from whorl.base.errors import InputError
from whorl.text.reply import CALL, CALLED
from whorl.text.tokenizer import Tokenizer

MAX_SOURCE = 256 << 10  # characters of a schema or grammar
MAX_DEPTH = 64  # of a JSON schema
OPTIONS = "x-guidance"  # llguidance's own, among them one that passes over what it does not support
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 100_000,
}


def json_object_grammar() -> str:
    """Any JSON object."""
    return json_schema_grammar({"type": "object"}, "response_format")


def json_schema_grammar(schema: Any, where: str) -> str:
    """A value of this JSON schema, without free white space. InputError names `where`."""
    _check_schema(schema, where)
    overrides: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return str(llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=overrides))


def regex_grammar(pattern: str) -> str:
    if len(pattern) > MAX_SOURCE:
        raise InputError(f"regex has {len(pattern)} characters; at most {MAX_SOURCE} are allowed")
    return str(llguidance.LLMatcher.grammar_from_regex(pattern))


def lark_grammar(source: str) -> str:
    if len(source) > MAX_SOURCE:
        raise InputError(f"grammar has {len(source)} characters; at most {MAX_SOURCE} are allowed")
    return str(llguidance.LLMatcher.grammar_from_lark(source))


def tool_call_grammar(tools: Sequence[dict[str, Any]], tokenizer: Tokenizer, name: str | None = None) -> str:
    """One call of one of the tools (OpenAI's form), or of the one called `name`, as templates write it."""
    chosen = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    if not chosen:
        known = ", ".join(tool["function"]["name"] for tool in tools) or "none"
        raise InputError(f"tool_choice names {name!r}, which is not among the tools: {known}")
    calls = []
    for function in chosen:
        arguments = function.get("parameters") or {"type": "object"}
        _check_schema(arguments, f"tools: parameters of {function['name']}")
        properties = {"name": {"const": function["name"]}, "arguments": arguments}
        calls.append(
            {
                "type": "object", "properties": properties, "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )  # fmt: skip
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    body = json.dumps(schema | {OPTIONS: options})
    return f"start: {_spelt(CALL, tokenizer)} body {_spelt(CALLED, tokenizer)}\nbody: %json {body}\n"


def _spelt(marker: str, tokenizer: Tokenizer) -> str:
    """A marker in a Lark grammar: the control token itself where it is one."""
    number = tokenizer.controls.get(marker)
    return json.dumps(marker) if number is None else f"<[{number}]>"


def _check_schema(schema: Any, where: str) -> None:
    if not isinstance(schema, dict):
        raise InputError(f"{where}: a JSON schema must be an object, not {type(schema).__name__}")
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: the JSON schema is not valid JSON: {error}") from error
    if len(text) > MAX_SOURCE:
        raise InputError(
            f"{where}: the JSON schema has {len(text)} characters; at most {MAX_SOURCE} are allowed"
        )
    deepest, stack = 0, [(schema, 1)]
    while stack:
        value, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(value, dict) and OPTIONS in value:
            raise InputError(f"{where}: {OPTIONS} is reserved for the server; remove it")
        if isinstance(value, dict | list):
            stack += [(one, depth + 1) for one in (value.values() if isinstance(value, dict) else value)]
    if deepest > MAX_DEPTH:
        raise InputError(f"{where}: the JSON schema is nested {deepest} deep; at most {MAX_DEPTH} is allowed")


class Grammars:
    """Compiles grammars for one tokenizer, whose logits have `vocab_size` columns."""

    def __init__(self, tokenizer: Tokenizer, end_ids: Sequence[int], vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._tokenizer = llguidance.LLTokenizer(
            tokenizer.to_json(), n_vocab=vocab_size, eos_token=list(end_ids)
        )
        self._limits = llguidance.LLParserLimits(**LIMITS)

    def check(self, grammar: str) -> None:
        """InputError in one line where the grammar is malformed, unsupported or too large."""
        problem = llguidance.LLMatcher.validate_grammar(grammar, self._tokenizer, limits=self._limits)
        if problem and not problem.startswith("WARNING"):
            raise InputError(f"the grammar is not supported: {' '.join(problem.split())[:300]}")

    def compile(self, grammar: str) -> Matcher:
        self.check(grammar)
        made = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if made.is_error():
            raise InputError(f"the grammar is not supported: {' '.join(made.get_error().split())[:300]}")
        return Matcher(made, self.vocab_size)


class Matcher:
    """Where one reply stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, [V]; the end tokens where the grammar may end."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(np.bool_)
        if self._matcher.is_error() or not allowed.any():
            raise InputError(
                f"no token satisfies the grammar here: {' '.join(self._matcher.get_error().split())[:200]}"
            )
        return allowed

    def accept(self, token: int) -> bool:
        """Take a token that was allowed; True where nothing may follow it."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())
