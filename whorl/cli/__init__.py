"""The `whorl` command: one thin call per verb."""
