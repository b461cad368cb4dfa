"""Repeat published studies, and compare ways to learn."""
