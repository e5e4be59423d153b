"""Outputs on their way into a warehouse, and what changed from one to the next."""
