"""Errors, files, settings, flags, the budget and the vocabulary. Standard library only."""
