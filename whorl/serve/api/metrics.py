"""What Prometheus reads at /metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whorl.serve.requests import EngineHealth

if TYPE_CHECKING:
    from whorl.serve.requests import EngineEvent

FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
NEXT_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """One server's figures; engines' own are read from their last health."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "whorl_requests",
            "Requests answered, by path and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.traces_lost = Counter(
            "whorl_traces_lost", "Replies whose trace could not be written.", registry=self.registry
        )
        self.first_token = Histogram(
            "whorl_first_token_seconds", "Seconds from a request's start to its first token.", ["model"],
            buckets=FIRST_TOKEN, registry=self.registry,
        )  # fmt: skip
        self.next_token = Histogram(
            "whorl_next_token_seconds", "Seconds between two tokens of a reply.", ["model"],
            buckets=NEXT_TOKEN, registry=self.registry,
        )  # fmt: skip

    def text(self, healths: Mapping[str, EngineHealth]) -> bytes:
        """The exposition, with these engines' state."""
        engines = CollectorRegistry()
        engines.register(_Engines(healths))
        return bytes(generate_latest(self.registry)) + bytes(generate_latest(engines))


HELP = {
    "running": "Sequences that are running.",
    "waiting": "Sequences that wait for a place in a step.",
    "pages_free": "Free cache pages.",
    "pages_total": "Cache pages in all.",
    "steps": "Steps of the engine.",
    "model_seconds": "Seconds spent in the model.",
    "engine_seconds": "Seconds of steps spent outside the model.",
    "prompt_tokens": "Prompt tokens computed.",
    "cached_tokens": "Prompt tokens taken from the cache.",
    "reply_tokens": "Reply tokens generated.",
}


class _Engines:
    def __init__(self, healths: Mapping[str, EngineHealth]) -> None:
        self._healths = healths

    def collect(self) -> Iterable[Metric]:
        for name in ("running", "waiting", "pages_free", "pages_total"):
            gauge = GaugeMetricFamily(f"whorl_engine_{name}", HELP[name], labels=["model"])
            for model, health in self._healths.items():
                gauge.add_metric([model], getattr(health, name))
            yield gauge
        up = GaugeMetricFamily("whorl_engine_up", "1 if the engine is ready, else 0.", labels=["model"])
        restarts = CounterMetricFamily(
            "whorl_engine_restarts", "Times the worker process was restarted.", labels=["model"]
        )
        for model, health in self._healths.items():
            up.add_metric([model], float(health.status == "ready"))
            restarts.add_metric([model], health.restarts)
        yield up
        yield restarts
        for name in sorted({name for health in self._healths.values() for name in health.counters}):
            help_text = HELP.get(name, f"{name.replace('_', ' ').capitalize()}.")
            counter = CounterMetricFamily(f"whorl_engine_{name}", help_text, labels=["model"])
            for model, health in self._healths.items():
                counter.add_metric([model], health.counters.get(name, 0.0))
            yield counter


class Timer:
    """The times between a request's start and its first token, and between the tokens of each reply to it."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._first = metrics.first_token.labels(model)
        self._next = metrics.next_token.labels(model)
        self._start = time.perf_counter()
        self._last: dict[int, float] = {}  # by the reply's number: several are made side by side

    def saw(self, number: int, event: EngineEvent) -> None:
        """An event of the request's reply of that number."""
        if not event.tokens:
            return
        now = time.perf_counter()
        if not self._last:
            self._first.observe(now - self._start)
        if number in self._last:
            self._next.observe(now - self._last[number])
        self._last[number] = now


class CountRequests:
    """Counts every answer by its route's pattern (never the path: a stranger makes as many as he likes)."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self._metrics.requests.labels(route, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)
