"""Public ops; each has a plain PyTorch twin in ``splatseg.ops.reference``, its specification."""
