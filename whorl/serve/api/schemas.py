"""What a request may hold. A field that is here is honoured; every other one is refused or named."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from whorl.base.fields import nearest
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

Number = Annotated[float, Field(allow_inf_nan=False)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class Request(BaseModel):
    """What chats and completions share."""

    model_config = ConfigDict(extra="allow")
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(default=1, ge=1)
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: int | None = None
    min_p: Number | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    ignore_eos: bool = False

    def check_fields(self, *, lenient: bool) -> list[str]:
        """The unknown fields that are ignored; ApiError for one that is not."""
        ignored = []
        for name, value in (self.model_extra or {}).items():
            if name in HINTS or value is None:
                continue
            if name == "parallel_tool_calls" and value is True:
                continue
            if name == "best_of" and value == self.n:
                continue
            if name == "modalities" and value == ["text"]:
                continue
            if name in UNSUPPORTED or name == "parallel_tool_calls":
                raise ApiError(400, f"{name} is not supported by this server; leave it out", param=name)
            if not lenient:
                hint = nearest(name, sorted({*type(self).model_fields, *HINTS}))
                raise ApiError(400, f"unknown parameter {name!r}{hint}", param=name, code="unknown_parameter")
            ignored.append(name)
        return ignored


class ChatRequest(Request):
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(Request):
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(default=16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)


class EmbeddingRequest(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"

    def check_fields(self, *, lenient: bool) -> list[str]:
        return Request.check_fields(self, lenient=lenient)  # type: ignore[arg-type]


class AdapterRequest(BaseModel):
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
            400, f"{field} has {len(found)} prompts; at most {most} are taken at once", param=field
        )
    return found
