"""What the user owns: model folders read into cards."""

from .card import ModelCard
from .scan import Listing, Refused, Root, ScanReport, list_files, roots_in, scan
from .store import Store

__all__ = [
    "Listing", "ModelCard", "Refused", "Root", "ScanReport", "Store", "list_files", "roots_in",
    "scan",
]  # fmt: skip
