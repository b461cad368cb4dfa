"""Draw the pictures of a run."""
