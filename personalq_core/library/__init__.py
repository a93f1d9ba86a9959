"""What the user owns: model folders read into cards."""

from .card import ModelCard
from .scan import Refused, Root, ScanReport, roots_in, scan
from .store import Store

__all__ = ["ModelCard", "Refused", "Root", "ScanReport", "Store", "roots_in", "scan"]
