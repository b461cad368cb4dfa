"""Errors, files, the budget and the vocabulary. Standard library only."""
