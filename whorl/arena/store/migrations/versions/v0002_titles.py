"""Titles of conversations, and an index for pages of a person's, the newest first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    title = sa.Column("title", sa.Text, nullable=False, server_default=sa.text("''"))
    op.add_column("arena_conversations", title)
    op.create_index("arena_conversations_started", "arena_conversations", ["person", "started"])
    op.drop_index("arena_conversations_person", "arena_conversations")
