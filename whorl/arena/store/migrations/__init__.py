"""How the store's tables came to be: Alembic's revisions, run by `whorl.arena.store.migrate`.

A revision is a file `versions/vNNNN_what.py` with `upgrade()` alone: nothing is ever downgraded, the
backup is the way back. It runs in one transaction with the check of the revision before it, on both
databases, and must leave the rows of `arena_log` as they are: it may add some.
"""
