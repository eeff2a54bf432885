"""Quality signals under RedPajama-V2's names: `Signal = Callable[[Document], float | list[Span] | None]`."""
