"""The libraries beyond the core, which extra brings each, and what it is for."""

from __future__ import annotations

from typing import NamedTuple


class Library(NamedTuple):
    extra: str
    purpose: str
    distribution: str = ""  # where the name to install differs from the name to import


LIBRARIES: dict[str, Library] = {
    "torch": Library("train", "models and training"),
    "numpy": Library("data", "batches, token shards"),
    "safetensors": Library("models", "weights on disk"),
    "tokenizers": Library("text", "tokenisation"),
    "jinja2": Library("text", "chat templates", "Jinja2"),
    "PIL": Library("text", "images", "pillow"),
    "httpx": Library("models", "pulling models from the hub"),
    "pyarrow": Library("data", "documents as parquet"),
    "xxhash": Library("data", "deduplication"),
    "rensa": Library("data", "MinHash deduplication"),
    "zstandard": Library("data", ".zst files"),
    "sklearn": Library("tasks", "the handwritten digits of the quickstart", "scikit-learn"),
    "scipy": Library("arena", "ratings from votes"),
    "threadpoolctl": Library("arena", "ratings from votes"),
    "sqlalchemy": Library("arena", "the store of votes", "SQLAlchemy"),
    "alembic": Library("arena", "migrations of the store of votes"),
    "psycopg": Library("arena", "votes in PostgreSQL"),
    "markdown_it": Library("studio", "messages as HTML", "markdown-it-py"),
    "nh3": Library("studio", "messages as HTML that is safe"),
    "transformers": Library("test", "oracle in the tests"),
    "peft": Library("test", "oracle in the tests"),
    "hypothesis": Library("test", "property-based tests"),
}
