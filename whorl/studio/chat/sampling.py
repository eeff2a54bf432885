"""How a page says a reply is to be sampled."""

from __future__ import annotations

import secrets

from pydantic import BaseModel, ConfigDict, Field

from whorl.base.nouns import SamplingParams

SEEDS = 2**31


class Sampling(BaseModel):
    """The drawer's fields. Without `seed` each reply has a fresh one, so that a retry says something
    else; the one that was used is kept with the reply."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, le=100_000)
    min_p: float = Field(default=0.0, ge=0, le=1)
    max_tokens: int = Field(default=1024, ge=1, le=131_072)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    seed: int | None = Field(default=None, ge=0, lt=SEEDS)

    def params(self) -> SamplingParams:
        given = self.model_dump(exclude={"seed"})
        seed = secrets.randbelow(SEEDS) if self.seed is None else self.seed
        return SamplingParams(**given, seed=seed)
