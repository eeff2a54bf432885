"""The data's pages: what was kept and what was not, and why; and the way from weights back to documents."""
