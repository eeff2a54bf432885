"""The server against its own OpenAPI description, by schemathesis: what the description allows is mostly
answered, what it does not is refused, and nothing that is sent fails the server or hangs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.serve.api.conftest import Server
from tests.serve.api.test_robust import answers_right

EXAMPLES = 40
# Operations, and how many of their examples as described must be answered with 200. A chat's template and a
# model's context refuse what no description tells of.
WANTED = {
    ("POST", "/v1/chat/completions"): 5,
    ("POST", "/v1/completions"): 10,
    ("POST", "/v1/embeddings"): 10,
    ("GET", "/v1/models"): 1,
    ("GET", "/v1/models/{name}"): 0,
    ("GET", "/metrics"): 1,
    ("GET", "/health"): 1,
    ("GET", "/ready"): 1,
    ("GET", "/"): 1,
}
# Kept small where they are valid: what they make is not looked at here.
MOST = {"max_tokens": 3, "max_completion_tokens": 3, "n": 2}


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    document = dict(httpx.get(f"{server.address}/openapi.json", timeout=30).json())
    for kind, field in (("CompletionRequest", "prompt"), ("EmbeddingRequest", "input")):
        pin_ids(document["components"]["schemas"][kind]["properties"][field])
    return document


def pin_ids(schema: dict[str, Any]) -> None:
    """Token ids to this model's: the description knows of no vocabulary."""
    if schema.get("type") == "integer":
        schema["exclusiveMaximum"] = 400
    for inner in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        pin_ids(inner)


def test_every_route_is_described_and_tried(document: dict[str, Any]) -> None:
    found = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert found == set(WANTED)
    for kind in ("ChatRequest", "CompletionRequest", "EmbeddingRequest"):
        schema = document["components"]["schemas"][kind]
        assert schema["additionalProperties"] is False and schema["properties"]["model"]["enum"] == ["knows"]


def shrink(body: Any) -> None:
    if isinstance(body, dict):
        body |= {
            name: most for name, most in MOST.items() if type(body.get(name)) is int and body[name] > most
        }
        if "input" not in body:
            body.setdefault("max_tokens", MOST["max_tokens"])


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as said", "not"])
@pytest.mark.parametrize(("method", "path"), WANTED, ids=str)
def test_nothing_that_is_sent_breaks_it(
    server: Server, document: dict[str, Any], method: str, path: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document)
    [operation] = [one.ok() for one in schema.include(path=path, method=method).get_all_operations()]
    if mode is GenerationMode.NEGATIVE and not operation.body:
        pytest.skip("there is nothing to get wrong")
    seen: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        shrink(case.body)
        answer = case.call(base_url=server.address, timeout=30)
        seen[answer.status_code] += 1
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    send()
    answers_right(server.address)
    if mode is GenerationMode.POSITIVE:
        assert seen[200] >= WANTED[method, path], seen
    else:
        assert sum(seen.values()) - seen[200] >= EXAMPLES / 2, seen
