"""Public ops. Each has a plain PyTorch twin in ``splatseg.ops.reference``, which runs where ``splatseg._C`` is not built."""

from splatseg.ops._library import extension

__all__ = ["extension"]
