"""Learning: losses, optimisers, the training step, pretraining with its state on disk, and test-time adaptation."""
