"""Plan and compute predictions over augmented views."""
