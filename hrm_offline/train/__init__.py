"""Learning: losses, optimisers, the shared step, pretraining and test-time adaptation."""
