"""What the user owns: model folders read into cards."""

from .card import ModelCard

__all__ = ["ModelCard"]
