"""Triton kernels and their launch configurations; nothing here is imported before a kernel is launched."""
