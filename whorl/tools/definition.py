"""A `Tool`: a function a model may call, and the JSON schema that tells the model how.

Whatever goes wrong inside a call is an answer for the model ("error: …"), never a crash of the
conversation around it.
"""

from __future__ import annotations

import inspect
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from whorl.base.errors import InputError
from whorl.tools.schema import Schema, parameters_of, problem, refuse_unknown

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what OpenAI's protocol allows
# What holds for any tool unless its schema says otherwise; left unsaid there, since a model reads
# the schema in every prompt.
ARGUMENTS: Schema = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A named function with described arguments.

    `parameters` is the JSON schema of the arguments object. A call is given `time_limit` seconds;
    a result longer than `output_limit` characters is cut, and says so.
    """

    name: str
    description: str
    parameters: Schema
    function: Callable[..., Any] = field(repr=False)
    time_limit: float = 5.0
    output_limit: int = 4000

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise InputError(f"tool name {self.name!r}: use 1 to 64 letters, digits, '_' and '-'")
        if self.time_limit <= 0 or self.output_limit < 1:
            raise InputError(f"tool {self.name!r}: time_limit and output_limit must be above 0")
        refuse_unknown(self.parameters, f"tool {self.name!r}")

    @property
    def schema(self) -> dict[str, Any]:
        """OpenAI's form, as it stands in `Conversation.tools`."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def call(self, arguments: dict[str, Any]) -> str:
        """Run the function on `arguments`; the text for the model, "error: …" where it failed.

        Only the wait ends at the time limit: Python cannot stop a thread, so a function that
        may hang should bound itself; the thread left behind is a daemon and ends with the process.
        """
        if (found := problem(arguments, {**ARGUMENTS, **self.parameters})) is not None:
            return f"error: {self.name}: {found}"
        results: list[str] = []
        worker = threading.Thread(
            target=lambda: results.append(self._run(arguments)), name=f"tool-{self.name}", daemon=True
        )
        worker.start()
        worker.join(self.time_limit)
        if not results:
            return f"error: {self.name}: no result within {self.time_limit:g} s"
        text = results[0]
        if len(text) > self.output_limit:
            return f"{text[: self.output_limit]}\n[cut at {self.output_limit} of {len(text)} characters]"
        return text

    def _run(self, arguments: dict[str, Any]) -> str:
        try:
            result = self.function(**arguments)
            return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        except Exception as error:  # noqa: BLE001 - a stranger's code: any failure is data for the model
            return f"error: {self.name}: {str(error) or type(error).__name__}"


def tool(function: Callable[..., Any]) -> Tool:
    """A `Tool` from a function: name, docstring's first paragraph, annotations.

    >>> def shout(text: str) -> str:
    ...     "Say it loudly."
    ...     return text.upper()
    >>> tool(shout).call({"text": "hello"})
    'HELLO'

    Raises `InputError` for a function without a docstring or with an argument JSON cannot carry.
    """
    name = getattr(function, "__name__", "")
    described = (inspect.getdoc(function) or "").split("\n\n")[0]
    if not described.strip():
        raise InputError(f"tool {name!r} has no docstring; its first paragraph tells the model what it does")
    return Tool(
        name=name,
        description=" ".join(described.split()),
        parameters=parameters_of(function),
        function=function,
    )
