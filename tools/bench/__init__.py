"""Measure speed, memory and compiled kernels."""
