"""To be called before the first import of torchvision, or of a transformers vision module."""

from maxcrops.profiling._torchvision import declare_missing

__all__ = ["declare_missing"]
