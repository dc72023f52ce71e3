"""MllamaImageProcessor whole, MllamaProcessor's text, and the number of states that MllamaVisionModel makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.models.mllama.configuration_mllama import MllamaVisionConfig
from transformers.models.mllama.image_processing_mllama import MllamaImageProcessor, get_optimal_tiled_canvas
from transformers.models.mllama.modeling_mllama import MllamaVisionModel
from transformers.models.mllama.processing_mllama import MllamaProcessor

from oracles import Answers, answers
from oracles.cheap_pixels import CheapResize, empty_image
from oracles.tokenizers import count, make_tokenizer


class _ImageProcessor(MllamaImageProcessor, CheapResize):
    """Without pixels; notes the grid."""

    def pad(self, image: torch.Tensor, size: SizeDict, aspect_ratio: tuple[int, int]) -> torch.Tensor:
        self.grid = aspect_ratio
        return super().pad(image, size, aspect_ratio)


class Oracle:
    def __init__(self, *, size: int = 224, max_image_tiles: int = 4, patch_size: int = 14) -> None:
        self.size, self.max_image_tiles = size, max_image_tiles
        self.settings = {"size": {"height": size, "width": size}, "max_image_tiles": max_image_tiles}
        self.image_processor = _ImageProcessor(**self.settings)
        self.processor = self._make_processor(self.image_processor)
        self.keys_per_tile = self._keys_per_tile(patch_size)

    def _make_processor(self, image_processor: Any) -> MllamaProcessor:
        tokenizer = make_tokenizer(["<|image|>", "<|python_tag|>", "<|begin_of_text|>"])
        tokenizer.bos_token = "<|begin_of_text|>"
        return MllamaProcessor(image_processor, tokenizer)

    def _keys_per_tile(self, patch_size: int) -> int:
        """Of the real vision model, made narrow and without values."""
        with torch.device("meta"):
            config = MllamaVisionConfig(
                hidden_size=8,
                num_hidden_layers=1,
                num_global_layers=1,
                attention_heads=1,
                intermediate_size=8,
                image_size=self.size,
                patch_size=patch_size,
                intermediate_layers_indices=[0],
            )
            pixels = torch.empty((1, 1, 4, 3, self.size, self.size))
            ids, mask = torch.ones((1, 1), dtype=torch.long), torch.ones((1, 1, 4), dtype=torch.long)
            states = MllamaVisionModel(config)(pixels, aspect_ratio_ids=ids, aspect_ratio_mask=mask).last_hidden_state
        images, tiles, keys = states.shape[1:4]
        assert (images, tiles) == (1, 4)
        return int(keys)

    def _cut(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, cols, crops) of the whole image processor; blank crops are not counted."""
        out = self.image_processor.preprocess(
            empty_image(height, width, 3), input_data_format="channels_first", return_tensors="pt"
        )
        [[tiles]] = out["num_tiles"]
        assert out["pixel_values"].shape[2] == self.max_image_tiles
        return *self.image_processor.grid, tiles

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        """The search of all, the whole image processor on a tenth."""
        tokens = count(self.processor.tokenizer, self.processor.replace_image_token({}, 0))
        rows = []
        for at, (height, width) in enumerate(sizes.tolist()):
            canvas = get_optimal_tiled_canvas(height, width, self.max_image_tiles, self.size)
            grid = [int(side) // self.size for side in canvas]
            crops = grid[0] * grid[1]
            assert at % 10 or (*grid, crops) == self._cut(height, width), (height, width)
            rows.append((*grid, crops, tokens))
        return answers(rows)

    def keys(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """[N], what cross-attention is not masked from: the states of the tiles that are not blank."""
        return self(sizes).crops * self.keys_per_tile

    def preprocess(self, height: int, width: int) -> tuple[int, int]:
        """(crops, tokens) of the whole processor, with real pixel values of a black image."""
        processor = self._make_processor(MllamaImageProcessor(**self.settings))
        text = processor.image_token
        out = processor(images=[Image.new("RGB", (width, height))], text=text, return_tensors="pt")
        assert out["pixel_values"].shape[2] == self.max_image_tiles
        [[[seen]]] = out["cross_attention_mask"][:, -1:].sum(dim=-1).tolist()
        # The processor puts a beginning of text into every prompt.
        return seen, out["input_ids"].shape[1] - 1
