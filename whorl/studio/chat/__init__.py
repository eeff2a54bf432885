"""Talking to a model by name: conversations that branch, tools that ask before they act, thumbs."""
