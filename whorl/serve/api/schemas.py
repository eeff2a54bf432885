"""What a request may hold. A field that is here is honoured; every other one is refused or named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from whorl.base.fields import nearest
from whorl.serve.api.bodies import Body
from whorl.serve.api.errors import ApiError

# Accepted and without effect: nothing that is answered depends on them.
HINTS = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "verbosity",
})  # fmt: skip
# They would change the answer, and Whorl does not do them.
UNSUPPORTED = frozenset({
    "audio", "best_of", "dimensions", "function_call", "functions", "modalities", "prediction",
    "reasoning_effort", "suffix", "web_search_options", "use_beam_search", "typical_p", "top_a",
    "min_tokens", "stop_token_ids", "prompt_embeds", "add_generation_prompt", "continue_final_message",
    "chat_template",
})  # fmt: skip

MOST_SHOWN, LONGEST_SHOWN = 16, 64  # ignored parameters in an answer's header, and characters of each

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(lt=2**31)]
TokenId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Texts = Annotated[list[str], Field(fail_fast=True)]
Ids = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
ManyIds = Annotated[list[Ids], Field(fail_fast=True, min_length=1)]


def form(said: str) -> WrapValidator:
    """A field of several forms says in one sentence what it takes, and not what each form misses."""

    def check(value: Any, take: Callable[[Any], Any]) -> Any:
        try:
            return take(value)
        except ValidationError as error:
            raise PydanticCustomError("form", "{said}", {"said": said}) from error

    return WrapValidator(check)


Prompts = Annotated[
    str | Texts | Ids | ManyIds, form("give a text, a list of texts, token ids, or a list of lists of them")
]
Stops = Annotated[str | Texts, form("give a text or a list of texts")]
ToolChoice = Annotated[
    Literal["none", "auto", "required"] | dict[str, Any],
    form("give none, auto, required or {type: function, function: {name: …}}"),
]

# What the description tells of fields whose content is read where prompts are prepared.
TEXT_PART: dict[str, Any] = {
    "type": "object", "required": ["type", "text"], "additionalProperties": False,
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}  # fmt: skip
IMAGE_PART: dict[str, Any] = {
    "type": "object", "required": ["type", "image_url"],
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {
            "type": "object", "required": ["url"],
            "properties": {"url": {"type": "string", "pattern": "^data:image/"}},
        },
    },
}  # fmt: skip
MESSAGE: dict[str, Any] = {
    "type": "object", "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [
            {"type": "string"}, {"type": "array", "items": {"anyOf": [TEXT_PART, IMAGE_PART]}},
        ]},
        "reasoning_content": {"type": "string"}, "name": {"type": "string"},
        "tool_calls": {"type": "array", "items": {"type": "object"}}, "tool_call_id": {"type": "string"},
    },
}  # fmt: skip
TOOL: dict[str, Any] = {
    "type": "object", "required": ["type", "function"],
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object", "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1}, "description": {"type": "string"},
                "parameters": {"type": "object"},
            },
        },
    },
}  # fmt: skip
FORMAT: dict[str, Any] = {
    "type": "object", "required": ["type"],
    "properties": {
        "type": {"enum": ["text", "json_object", "json_schema"]}, "json_schema": {"type": "object"},
    },
}  # fmt: skip


def _described(schema: dict[str, Any]) -> None:
    """Unknown fields are taken in, to be refused by their name; the description says that they are."""
    schema["additionalProperties"] = False
    schema["properties"] |= {hint: {"description": "Without effect."} for hint in sorted(HINTS)}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: Annotated[bool, Field(strict=True)] = False


class ModelRequest(Body):
    """What every request to a model shares."""

    model_config = ConfigDict(extra="allow", strict=True, json_schema_extra=_described)
    model: str

    def check_fields(self, *, lenient: bool) -> list[str]:
        """The unknown fields that are ignored; ApiError for one that is not."""
        ignored = []
        for name, value in (self.model_extra or {}).items():
            if name in HINTS or self._changes_nothing(name, value):
                continue
            if name in UNSUPPORTED or name == "parallel_tool_calls":
                raise ApiError(400, f"{name} is not supported by this server; remove it", param=name)
            if not lenient:
                hint = nearest(name, sorted({*type(self).model_fields, *HINTS}))
                raise ApiError(
                    400, f"unknown parameter {name[:LONGEST_SHOWN]!r}{hint}", param=name[:LONGEST_SHOWN],
                    code="unknown_parameter",
                )  # fmt: skip
            ignored.append(name)
        return ignored

    def _changes_nothing(self, name: str, value: Any) -> bool:
        """Of OpenAI's own parameters, where they ask for what is done anyway."""
        if name not in UNSUPPORTED and name != "parallel_tool_calls":
            return False
        same = {"parallel_tool_calls": True, "best_of": getattr(self, "n", 1), "modalities": ["text"]}
        return value is None or (name in same and value == same[name])


def ignored_header(names: list[str]) -> dict[str, str]:
    """Names a client made up, as a header may hold them, and not all of them where they are many."""
    if not names:
        return {}
    shown = [quote(name[:LONGEST_SHOWN]) for name in names[:MOST_SHOWN]]
    more = [f"and {len(names) - MOST_SHOWN} more"] if len(names) > MOST_SHOWN else []
    return {"X-Whorl-Ignored": ", ".join(shown + more)}


class Request(ModelRequest):
    """What chats and completions share."""

    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Count = Field(default=1, ge=1)
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Count | None = Field(default=None, ge=-1)
    min_p: Number | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops | None = None
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    ignore_eos: bool = False

    def check_fields(self, *, lenient: bool) -> list[str]:
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options needs stream: true", param="stream_options")
        return super().check_fields(lenient=lenient)


class ChatRequest(Request):
    messages: list[dict[str, Any]] = Field(min_length=1, json_schema_extra={"items": MESSAGE})
    max_tokens: Count | None = Field(default=None, ge=1)
    max_completion_tokens: Count | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    return_token_ids: bool | None = None
    tools: list[Annotated[dict[str, Any], Field(json_schema_extra=TOOL)]] | None = None
    tool_choice: ToolChoice | None = None
    response_format: Annotated[dict[str, Any], Field(json_schema_extra=FORMAT)] | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(Request):
    prompt: Prompts
    max_tokens: Count | None = Field(default=16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)


class EmbeddingRequest(ModelRequest):
    input: Prompts
    encoding_format: Literal["float", "base64"] = "float"


class AdapterRequest(Body):
    model_config = ConfigDict(extra="forbid")
    lora_name: str = Field(min_length=1)
    lora_path: str | None = None
    model: str | None = None


def prompts_of(
    given: str | list[str] | list[int] | list[list[int]], field: str, most: int
) -> list[str | list[int]]:
    """A text or token prompt, or several."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(one, int) for one in given):
        return [[int(one) for one in given if isinstance(one, int)]]
    found: list[str | list[int]] = [one for one in given if not isinstance(one, int)]
    if not found:
        raise ApiError(400, f"{field} is empty; give a text or token ids", param=field)
    if len(found) > most:
        raise ApiError(
            400, f"{field} has {len(found)} prompts; at most {most} are allowed per request", param=field
        )
    return found
