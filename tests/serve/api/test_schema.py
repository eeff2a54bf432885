"""The server against its own OpenAPI description, by schemathesis: no 5xx, no hang, whatever is sent."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.serve.api.conftest import Server
from tests.serve.api.test_robust import answers_right

ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/models/{name}",
    "/metrics",
)


@pytest.mark.parametrize("path", ROUTES)
def test_nothing_that_is_sent_breaks_it(server: Server, path: str) -> None:
    document = httpx.get(f"{server.address}/openapi.json", timeout=30).json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [one.ok() for one in schema.include(path=path).get_all_operations()]
    assert operations, path
    for operation in operations:

        @settings(
            max_examples=40, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def send(case: schemathesis.Case) -> None:
            answer = case.call(base_url=server.address, timeout=30)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

        send()
    answers_right(server.address)
