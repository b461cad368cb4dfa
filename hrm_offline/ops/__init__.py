"""The network's operations in plain PyTorch, one a file."""
