"""Try to break a run: kills, simulated clocks, damaged files."""
