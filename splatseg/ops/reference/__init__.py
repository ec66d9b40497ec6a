"""The ops in plain PyTorch: each is the specification of the kernel of its name."""
