"""Whorl: from raw files to a trained multimodal chat assistant."""

__version__ = "0.1.0"
