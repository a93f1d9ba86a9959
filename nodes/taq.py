"""Nodes of the taq family."""

NODES = []
