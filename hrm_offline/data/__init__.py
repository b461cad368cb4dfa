"""Tasks, grids, augmentation and batches. numpy only, never torch."""
