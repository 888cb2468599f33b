"""The arguments of each command; nothing here imports PyTorch."""
