"""The recursive network: its layers, its outer loop with halting, its batches, and its artifact on disk."""
