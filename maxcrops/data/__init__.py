"""Datasets: sizes of images from their headers."""

from maxcrops.data.image_sizes import ImageFile, find_images, read_size, read_sizes

__all__ = ["ImageFile", "find_images", "read_size", "read_sizes"]
