"""Datasets: sizes of images from their headers, and questions with the answers people gave."""

from maxcrops.data.image_sizes import ImageFile, find_images, read_size, read_sizes
from maxcrops.data.questions import BadRow, Question, Questions, StoredImage, open_image, read_questions

__all__ = [
    "BadRow",
    "ImageFile",
    "Question",
    "Questions",
    "StoredImage",
    "find_images",
    "open_image",
    "read_questions",
    "read_size",
    "read_sizes",
]
