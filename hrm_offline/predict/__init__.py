"""Predict test inputs in many augmented views, and collect the votes."""
