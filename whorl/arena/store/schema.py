"""The tables as they are now. How they came to be so is in `migrations`; a test holds both equal.

Times are microseconds since the epoch. Text that a person may erase stands in `contents` alone, as
JSON with every character PostgreSQL cannot hold escaped; everything else refers to it by number.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

VERSION_TABLE = "arena_version"  # alembic's; the name leaves room for another user of the database

metadata = MetaData()
NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself in INTEGER only

models = Table(
    "arena_models",
    metadata,
    Column("name", String, primary_key=True),
    Column("address", String, nullable=False),
    Column("aliases", Text, nullable=False),  # JSON list
    Column("active", Boolean, nullable=False),
    Column("added", BigInteger, nullable=False),
)

people = Table(
    "arena_people",
    metadata,
    Column("id", NUMBER, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    Column("token", String),  # SHA-256 of the sign-in token; NULL: cannot sign in
    Column("added", BigInteger, nullable=False),
)

prompts = Table(
    "arena_prompts",
    metadata,
    Column("id", NUMBER, primary_key=True),
    Column("cluster", BigInteger, nullable=False),
    Column("purpose", String, nullable=False),
    Column("sketch", Text),  # MinHash as hex; NULL where only an exact match counts
    Column("size", BigInteger),  # of how many runs of words; NULL in rows that are older than the column
)

prompt_keys = Table(
    "arena_prompt_keys",
    metadata,
    Column("key", String, primary_key=True),
    Column("prompt", BigInteger, ForeignKey("arena_prompts.id", ondelete="CASCADE"), nullable=False),
    Index("arena_prompt_keys_prompt", "prompt"),
)

prompt_bands = Table(
    "arena_prompt_bands",
    metadata,
    Column("band", BigInteger, primary_key=True, autoincrement=False),
    Column("prompt", BigInteger, ForeignKey("arena_prompts.id", ondelete="CASCADE"), primary_key=True),
    Index("arena_prompt_bands_prompt", "prompt"),
)

# What stays of an erased prompt: its keys and bands, hashed under a secret.
prompt_marks = Table(
    "arena_prompt_marks",
    metadata,
    Column("mark", String, primary_key=True),
    Column("prompt", BigInteger, ForeignKey("arena_prompts.id"), primary_key=True),
)

secrets = Table(
    "arena_secrets",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)

conversations = Table(
    "arena_conversations",
    metadata,
    Column("id", String, primary_key=True),
    Column("person", BigInteger, ForeignKey("arena_people.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("consent", String, nullable=False),
    Column("tools", BigInteger),  # of arena_contents: what the models may call
    Column("prompt", BigInteger),  # of arena_prompts, until no conversation needs that any more
    Column("started", BigInteger, nullable=False),
    Column("erased", BigInteger),
    Column("title", Text, nullable=False, server_default=text("''")),  # words: goes when the rest goes
    Index("arena_conversations_started", "person", "started"),
    Index("arena_conversations_prompt", "prompt"),
)

contents = Table(
    "arena_contents",
    metadata,
    Column("id", NUMBER, primary_key=True),
    Column("conversation", String, ForeignKey("arena_conversations.id"), nullable=False),
    Column("digest", String, nullable=False),  # HMAC-SHA-256 of body under salt: stays when they go
    Column("salt", String),
    Column("body", Text),
    CheckConstraint("(salt IS NULL) = (body IS NULL)", name="arena_contents_whole"),
    Index("arena_contents_conversation", "conversation"),
)

turns = Table(
    "arena_turns",
    metadata,
    Column("id", NUMBER, primary_key=True),
    Column("conversation", String, ForeignKey("arena_conversations.id"), nullable=False),
    Column("parent", BigInteger, ForeignKey("arena_turns.id")),
    Column("side", String, nullable=False),
    Column("role", String, nullable=False),
    Column("content", BigInteger, ForeignKey("arena_contents.id"), nullable=False),
    Column("trace", BigInteger, ForeignKey("arena_contents.id")),
    Column("model", String, ForeignKey("arena_models.name")),
    Column("weights", String, nullable=False),
    Column("time", BigInteger, nullable=False),
    Index("arena_turns_conversation", "conversation"),
)

# The prompts that turns are, but for a battle's first one, which stands in its conversation.
turn_prompts = Table(
    "arena_turn_prompts",
    metadata,
    Column("turn", BigInteger, ForeignKey("arena_turns.id"), primary_key=True, autoincrement=False),
    Column("prompt", BigInteger, ForeignKey("arena_prompts.id"), nullable=False),
    Index("arena_turn_prompts_prompt", "prompt"),
)

battles = Table(
    "arena_battles",
    metadata,
    Column("id", String, ForeignKey("arena_conversations.id"), primary_key=True),
    Column("model_a", String, ForeignKey("arena_models.name"), nullable=False),
    Column("model_b", String, ForeignKey("arena_models.name"), nullable=False),
    Column("probability", Float(53), nullable=False),
    Column("category", String, nullable=False),
    Column("cluster", BigInteger, nullable=False),
    Column("purpose", String, nullable=False),
    Column("time", BigInteger, nullable=False),
)

# The chain: one row an event, never changed. `body` is canonical JSON and says all that a board
# needs, so no other table is asked when a past board is computed anew, and no migration of another
# table can change a hash. `subject` is the battle (vote) or conversation (chat, turn, preference,
# consent, erase) it is about. From `cover` on chats are in it; in a store made since, from the start.
log = Table(
    "arena_log",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("recorded", BigInteger, nullable=False),  # when it came in: never goes back
    Column("body", Text, nullable=False),
    Column("previous", String, nullable=False),
    Column("hash", String, nullable=False),
    Index("arena_log_subject", "subject"),
    Index(
        "arena_log_one_vote",
        "subject",
        unique=True,
        sqlite_where=text("kind = 'vote'"),
        postgresql_where=text("kind = 'vote'"),
    ),
)

preferences = Table(
    "arena_preferences",
    metadata,
    Column("id", NUMBER, primary_key=True),
    Column("conversation", String, ForeignKey("arena_conversations.id"), nullable=False),
    Column("turn", BigInteger, ForeignKey("arena_turns.id"), nullable=False),
    Column("person", BigInteger, ForeignKey("arena_people.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("value", Integer, nullable=False),
    Column("content", BigInteger, ForeignKey("arena_contents.id")),  # the reason, or the better reply
    Column("time", BigInteger, nullable=False),
    Index("arena_preferences_conversation", "conversation"),
)
