"""Nodes of the check_in family."""

NODES = []
