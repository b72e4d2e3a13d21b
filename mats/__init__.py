"""Merge fine-tuned models by matching them in their task subspaces."""

__version__ = "0.1.0"
