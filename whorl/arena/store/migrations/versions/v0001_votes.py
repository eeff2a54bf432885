"""Conversations, battles, the log of votes, and the triggers that keep it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    create_people_and_prompts()
    create_conversations()
    create_log()
    keep_as_written()


def create_people_and_prompts() -> None:
    op.create_table(
        "arena_models",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("address", sa.String, nullable=False),
        sa.Column("aliases", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("added", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "arena_people",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("token", sa.String),
        sa.Column("added", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "arena_prompts",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("cluster", sa.BigInteger, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("sketch", sa.Text),
    )
    prompt = sa.ForeignKey("arena_prompts.id", ondelete="CASCADE")
    op.create_table(
        "arena_prompt_keys",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("prompt", sa.BigInteger, prompt, nullable=False),
    )
    op.create_index("arena_prompt_keys_prompt", "arena_prompt_keys", ["prompt"])
    prompt = sa.ForeignKey("arena_prompts.id", ondelete="CASCADE")
    op.create_table(
        "arena_prompt_bands",
        sa.Column("band", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("prompt", sa.BigInteger, prompt, primary_key=True),
    )
    op.create_index("arena_prompt_bands_prompt", "arena_prompt_bands", ["prompt"])


def create_conversations() -> None:
    op.create_table(
        "arena_conversations",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("person", sa.BigInteger, sa.ForeignKey("arena_people.id"), nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("consent", sa.String, nullable=False),
        sa.Column("tools", sa.BigInteger),
        sa.Column("prompt", sa.BigInteger),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("erased", sa.BigInteger),
    )
    op.create_index("arena_conversations_person", "arena_conversations", ["person"])
    op.create_index("arena_conversations_prompt", "arena_conversations", ["prompt"])
    op.create_table(
        "arena_contents",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("conversation", sa.String, sa.ForeignKey("arena_conversations.id"), nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("salt", sa.String),
        sa.Column("body", sa.Text),
        sa.CheckConstraint("(salt IS NULL) = (body IS NULL)", name="arena_contents_whole"),
    )
    op.create_index("arena_contents_conversation", "arena_contents", ["conversation"])
    op.create_table(
        "arena_turns",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("conversation", sa.String, sa.ForeignKey("arena_conversations.id"), nullable=False),
        sa.Column("parent", sa.BigInteger, sa.ForeignKey("arena_turns.id")),
        sa.Column("side", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("content", sa.BigInteger, sa.ForeignKey("arena_contents.id"), nullable=False),
        sa.Column("trace", sa.BigInteger, sa.ForeignKey("arena_contents.id")),
        sa.Column("model", sa.String, sa.ForeignKey("arena_models.name")),
        sa.Column("weights", sa.String, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
    )
    op.create_index("arena_turns_conversation", "arena_turns", ["conversation"])


def create_log() -> None:
    op.create_table(
        "arena_battles",
        sa.Column("id", sa.String, sa.ForeignKey("arena_conversations.id"), primary_key=True),
        sa.Column("model_a", sa.String, sa.ForeignKey("arena_models.name"), nullable=False),
        sa.Column("model_b", sa.String, sa.ForeignKey("arena_models.name"), nullable=False),
        sa.Column("probability", sa.Float(53), nullable=False),
        sa.Column("category", sa.String, nullable=False),
        sa.Column("cluster", sa.BigInteger, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "arena_log",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("recorded", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("previous", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
    )
    op.create_index("arena_log_subject", "arena_log", ["subject"])
    vote = sa.text("kind = 'vote'")
    op.create_index(
        "arena_log_one_vote", "arena_log", ["subject"], unique=True, sqlite_where=vote, postgresql_where=vote
    )
    op.create_table(
        "arena_preferences",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("conversation", sa.String, sa.ForeignKey("arena_conversations.id"), nullable=False),
        sa.Column("turn", sa.BigInteger, sa.ForeignKey("arena_turns.id"), nullable=False),
        sa.Column("person", sa.BigInteger, sa.ForeignKey("arena_people.id"), nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("value", sa.Integer, nullable=False),
        sa.Column("content", sa.BigInteger, sa.ForeignKey("arena_contents.id")),
        sa.Column("time", sa.BigInteger, nullable=False),
    )
    op.create_index("arena_preferences_conversation", "arena_preferences", ["conversation"])


# -- what the database itself refuses --------------------------------------------------------------

APPEND_ONLY = ("arena_log", "arena_turns", "arena_battles", "arena_preferences")
KEPT = (*APPEND_ONLY, "arena_contents", "arena_conversations")  # no row of these ever goes
NOT_THE_NEXT = (
    "NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM arena_log) OR NEW.previous <> "
    "COALESCE((SELECT hash FROM arena_log ORDER BY seq DESC LIMIT 1), '')"
)
NOT_AN_ERASURE = (
    "NEW.body IS NOT NULL OR NEW.salt IS NOT NULL OR NEW.digest <> OLD.digest "
    "OR NEW.id <> OLD.id OR NEW.conversation <> OLD.conversation"
)


def keep_as_written() -> None:
    """Rows are only added, and to the log only behind its end. A check against mistakes; who may drop
    a trigger is found by `verify`."""
    rules = [(table, "UPDATE", "", "is append-only") for table in APPEND_ONLY]
    rules += [(table, "DELETE", "", "keeps its rows") for table in KEPT]
    # Also what INSERT OR REPLACE would do, which SQLite does not count as a DELETE.
    rules += [("arena_log", "INSERT", NOT_THE_NEXT, "goes on behind its end")]
    rules += [("arena_contents", "UPDATE", NOT_AN_ERASURE, "can only be erased")]
    write = postgresql_trigger if op.get_bind().dialect.name == "postgresql" else sqlite_trigger
    for table, verb, when, said in rules:
        write(table, verb, when, f"{table} {said}")
    if op.get_bind().dialect.name == "postgresql":
        for table in KEPT:
            op.execute(
                f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_no_delete()"
            )


def sqlite_trigger(table: str, verb: str, when: str, said: str) -> None:
    condition = f"WHEN {when} " if when else ""
    op.execute(
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} FOR EACH ROW {condition}"
        f"BEGIN SELECT RAISE(ABORT, '{said}'); END"
    )


def postgresql_trigger(table: str, verb: str, when: str, said: str) -> None:
    name = f"{table}_no_{verb.lower()}"
    refuse = f"RAISE EXCEPTION '{said}';"
    body = f"IF {when} THEN {refuse} END IF; RETURN NEW;" if when else refuse
    op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$")
    op.execute(f"CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()")
