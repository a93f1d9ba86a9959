"""Check-in: from a plain request to the model that is meant."""
