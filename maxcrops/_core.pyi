"""
Geometry and counts of crop-based vision-language models; the documented faces are in maxcrops.
"""

from collections.abc import Sequence
import enum
from typing import Annotated

import numpy
import numpy.typing
from numpy.typing import NDArray


MAX_SIDE: int = 2147483647

MAX_CROPS_LIMIT: int = 1048576

def available_isas() -> list[str]:
    """
    Instruction sets that this build can use on this machine, weakest first.
    """

def active_isa() -> str:
    """
    The instruction set that is used; the environment variable MAXCROPS_CPU_ISA forces one.
    """

class GridPolicy(enum.Enum):
    FIXED = 0

    SCALE_FIT = 1

    CLOSEST_RATIO = 2

    BEST_RESOLUTION = 3

    CEIL_GRID = 4

    LOG_RATIO = 5

    COVERING_AREA = 6

    LARGEST_CANVAS = 7

    PAN_AND_SCAN = 8

    WINDOW_SNAP = 9

class SplitGate(enum.Enum):
    ALWAYS = 0

    ABOVE_CROP = 1

    ABOVE_AREA = 2

    ABOVE_GRID = 3

class Sizing(enum.Enum):
    SQUARE = 0

    FEATURES = 1

    AREA = 2

    EDGES = 3

class Unpad(enum.Enum):
    NEVER = 0

    BY_RATIO = 1

    BY_PATCHES = 2

class GlobalCrop(enum.Enum):
    NEVER = 0

    WHEN_SPLIT = 1

    WHEN_UNSPLIT = 2

    ALWAYS = 3

class Fit(enum.Enum):
    STRETCH = 0

    LETTERBOX_TRUNC = 1

    LETTERBOX_CEIL = 2

    LETTERBOX_ROUND = 3

    TOP_LEFT = 4

    TOP_LEFT_NO_UPSCALE = 5

class TokenShape(enum.Enum):
    TILED = 0

    STITCHED = 1

class Count(enum.Enum):
    SEQUENCE_TOKENS = 0

    CONNECTOR_OUTPUTS = 1

    VIT_PATCHES = 2

    CROPS = 3

    CROSS_ATTENTION_KEYS = 4

class GridRule:
    def __init__(self) -> None: ...

    @property
    def policy(self) -> GridPolicy: ...

    @policy.setter
    def policy(self, arg: GridPolicy, /) -> None: ...

    @property
    def max_crops(self) -> int: ...

    @max_crops.setter
    def max_crops(self, arg: int, /) -> None: ...

    @property
    def min_crops(self) -> int: ...

    @min_crops.setter
    def min_crops(self, arg: int, /) -> None: ...

    @property
    def clamp_reduced_sides(self) -> bool: ...

    @clamp_reduced_sides.setter
    def clamp_reduced_sides(self, arg: bool, /) -> None: ...

    @property
    def max_grid_side(self) -> int: ...

    @max_grid_side.setter
    def max_grid_side(self, arg: int, /) -> None: ...

    @property
    def split(self) -> SplitGate: ...

    @split.setter
    def split(self, arg: SplitGate, /) -> None: ...

    @property
    def split_tolerance(self) -> float: ...

    @split_tolerance.setter
    def split_tolerance(self, arg: float, /) -> None: ...

    @property
    def compensated_sum(self) -> bool: ...

    @compensated_sum.setter
    def compensated_sum(self, arg: bool, /) -> None: ...

    @property
    def largest_upscaling(self) -> bool: ...

    @largest_upscaling.setter
    def largest_upscaling(self, arg: bool, /) -> None: ...

    @property
    def covering_threshold(self) -> float: ...

    @covering_threshold.setter
    def covering_threshold(self, arg: float, /) -> None: ...

    @property
    def transposed(self) -> bool: ...

    @transposed.setter
    def transposed(self, arg: bool, /) -> None: ...

    @property
    def min_slice_size(self) -> int: ...

    @min_slice_size.setter
    def min_slice_size(self, arg: int, /) -> None: ...

    @property
    def min_ratio(self) -> float: ...

    @min_ratio.setter
    def min_ratio(self, arg: float, /) -> None: ...

    @property
    def max_image_size(self) -> int: ...

    @max_image_size.setter
    def max_image_size(self, arg: int, /) -> None: ...

    @property
    def longest_edge(self) -> int: ...

    @longest_edge.setter
    def longest_edge(self, arg: int, /) -> None: ...

    @property
    def longest_edge_limit(self) -> int: ...

    @longest_edge_limit.setter
    def longest_edge_limit(self, arg: int, /) -> None: ...

    @property
    def resolutions(self) -> list[tuple[int, int]]: ...

    @resolutions.setter
    def resolutions(self, arg: Sequence[tuple[int, int]], /) -> None: ...

    @property
    def rows(self) -> int: ...

    @rows.setter
    def rows(self, arg: int, /) -> None: ...

    @property
    def cols(self) -> int: ...

    @cols.setter
    def cols(self, arg: int, /) -> None: ...

class CropRule:
    def __init__(self) -> None: ...

    @property
    def crop_size(self) -> int: ...

    @crop_size.setter
    def crop_size(self, arg: int, /) -> None: ...

    @property
    def global_crop_size(self) -> int: ...

    @global_crop_size.setter
    def global_crop_size(self, arg: int, /) -> None: ...

    @property
    def patch_size(self) -> int: ...

    @patch_size.setter
    def patch_size(self, arg: int, /) -> None: ...

    @property
    def global_pooling_rows(self) -> int: ...

    @global_pooling_rows.setter
    def global_pooling_rows(self, arg: int, /) -> None: ...

    @property
    def global_pooling_cols(self) -> int: ...

    @global_pooling_cols.setter
    def global_pooling_cols(self, arg: int, /) -> None: ...

    @property
    def pooling_rows(self) -> int: ...

    @pooling_rows.setter
    def pooling_rows(self, arg: int, /) -> None: ...

    @property
    def pooling_cols(self) -> int: ...

    @pooling_cols.setter
    def pooling_cols(self, arg: int, /) -> None: ...

    @property
    def left_margin(self) -> int: ...

    @left_margin.setter
    def left_margin(self, arg: int, /) -> None: ...

    @property
    def right_margin(self) -> int: ...

    @right_margin.setter
    def right_margin(self, arg: int, /) -> None: ...

    @property
    def global_crop(self) -> GlobalCrop: ...

    @global_crop.setter
    def global_crop(self, arg: GlobalCrop, /) -> None: ...

    @property
    def global_first(self) -> bool: ...

    @global_first.setter
    def global_first(self, arg: bool, /) -> None: ...

    @property
    def fit(self) -> Fit: ...

    @fit.setter
    def fit(self, arg: Fit, /) -> None: ...

    @property
    def global_fit(self) -> Fit: ...

    @global_fit.setter
    def global_fit(self, arg: Fit, /) -> None: ...

    @property
    def sizing(self) -> Sizing: ...

    @sizing.setter
    def sizing(self, arg: Sizing, /) -> None: ...

    @property
    def global_sizing(self) -> Sizing: ...

    @global_sizing.setter
    def global_sizing(self, arg: Sizing, /) -> None: ...

    @property
    def min_features(self) -> int: ...

    @min_features.setter
    def min_features(self, arg: int, /) -> None: ...

    @property
    def max_features(self) -> int: ...

    @max_features.setter
    def max_features(self, arg: int, /) -> None: ...

    @property
    def shortest_edge(self) -> int: ...

    @shortest_edge.setter
    def shortest_edge(self, arg: int, /) -> None: ...

    @property
    def longest_crop_edge(self) -> int: ...

    @longest_crop_edge.setter
    def longest_crop_edge(self, arg: int, /) -> None: ...

    @property
    def fills_batch(self) -> bool: ...

    @fills_batch.setter
    def fills_batch(self, arg: bool, /) -> None: ...

    @property
    def min_content_side(self) -> int: ...

    @min_content_side.setter
    def min_content_side(self, arg: int, /) -> None: ...

class TokenRule:
    def __init__(self) -> None: ...

    @property
    def shape(self) -> TokenShape: ...

    @shape.setter
    def shape(self, arg: TokenShape, /) -> None: ...

    @property
    def image_extra(self) -> int: ...

    @image_extra.setter
    def image_extra(self, arg: int, /) -> None: ...

    @property
    def tokens_per_crop(self) -> int: ...

    @tokens_per_crop.setter
    def tokens_per_crop(self, arg: int, /) -> None: ...

    @property
    def crop_extra(self) -> int: ...

    @crop_extra.setter
    def crop_extra(self, arg: int, /) -> None: ...

    @property
    def row_end(self) -> int: ...

    @row_end.setter
    def row_end(self, arg: int, /) -> None: ...

    @property
    def row_separator(self) -> int: ...

    @row_separator.setter
    def row_separator(self, arg: int, /) -> None: ...

    @property
    def global_tokens(self) -> int: ...

    @global_tokens.setter
    def global_tokens(self, arg: int, /) -> None: ...

    @property
    def global_extra(self) -> int: ...

    @global_extra.setter
    def global_extra(self, arg: int, /) -> None: ...

    @property
    def split_extra(self) -> int: ...

    @split_extra.setter
    def split_extra(self, arg: int, /) -> None: ...

    @property
    def counts_features(self) -> bool: ...

    @counts_features.setter
    def counts_features(self, arg: bool, /) -> None: ...

    @property
    def counts_global_features(self) -> bool: ...

    @counts_global_features.setter
    def counts_global_features(self, arg: bool, /) -> None: ...

    @property
    def cross_attention_keys(self) -> int: ...

    @cross_attention_keys.setter
    def cross_attention_keys(self, arg: int, /) -> None: ...

    @property
    def max_map_crops(self) -> int: ...

    @max_map_crops.setter
    def max_map_crops(self, arg: int, /) -> None: ...

    @property
    def col_tokens(self) -> int: ...

    @col_tokens.setter
    def col_tokens(self, arg: int, /) -> None: ...

    @property
    def map_extra(self) -> int: ...

    @map_extra.setter
    def map_extra(self, arg: int, /) -> None: ...

    @property
    def low_res_col_tokens(self) -> int: ...

    @low_res_col_tokens.setter
    def low_res_col_tokens(self, arg: int, /) -> None: ...

    @property
    def pool_across_crops(self) -> bool: ...

    @pool_across_crops.setter
    def pool_across_crops(self, arg: bool, /) -> None: ...

    @property
    def unpad(self) -> Unpad: ...

    @unpad.setter
    def unpad(self, arg: Unpad, /) -> None: ...

class Spec:
    """
    A validated specification; raises ValueError, naming the field, when it is not.
    """

    def __init__(self, name: str, grid: GridRule, crop: CropRule, tokens: TokenRule) -> None: ...

    @property
    def default_max_crops(self) -> int: ...

    def edge_at(self, max_crops: int) -> int: ...

    def resolutions_at(self, max_crops: int) -> list[tuple[int, int]]: ...

    @property
    def knob_range(self) -> tuple[int, int]: ...

class View:
    """
    One resize of the image onto a canvas from which crops are cut. Sizes in pixels.
    """

    @property
    def source(self) -> tuple[int, int, int, int]:
        """
        (top, left, height, width) of the part of the image that is resized; all of it in most models.
        """

    @property
    def is_global(self) -> bool:
        """Whether this is the low-resolution view of the whole image."""

    @property
    def from_local_canvas(self) -> bool:
        """Whether the source is the local view's canvas instead of the image."""

    @property
    def resizes(self) -> list[tuple[int, int]]:
        """
        (height, width) of each resize, in order; the last is the content's size.
        """

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width)."""

    @property
    def content(self) -> tuple[int, int, int, int]:
        """
        (top, left, height, width) of the image on the canvas; the rest is padding.
        """

    @property
    def crops(self) -> list[tuple[int, int, int, int]]:
        """
        (top, left, height, width) of each crop on the canvas, margins included, in the encoder's order.
        """

    def __repr__(self) -> str: ...

class Layout:
    """What happens to one image: grid, canvas, views, crop order and counts."""

    @property
    def height(self) -> int:
        """Of the image, pixels."""

    @property
    def width(self) -> int:
        """Of the image, pixels."""

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of local crops; (0, 0) when only the global crop exists."""

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) of the local view, pixels."""

    @property
    def content(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the image on the canvas, pixels."""

    @property
    def has_global(self) -> bool:
        """Whether a global crop exists."""

    @property
    def is_refused(self) -> bool:
        """
        Whether the model's own processor raises for an image of this size; counts go on as if it did not.
        """

    @property
    def num_crops(self) -> int:
        """Crops that the encoder sees, the global one included."""

    @property
    def sequence_tokens(self) -> int:
        """Positions in the language model's sequence."""

    @property
    def connector_outputs(self) -> int:
        """Features that the adapter computes."""

    @property
    def vit_patches(self) -> int:
        """Patches that the vision encoder computes."""

    @property
    def cross_attention_keys(self) -> int:
        """
        Keys that the image gives the language model's cross-attention layers; 0 without such layers.
        """

    @property
    def scale(self) -> float:
        """
        Linear scale of the image's detail, the smaller of both axes; below 1, detail is lost.
        """

    @property
    def margins(self) -> tuple[int, int]:
        """
        (before, behind): what a crop shares with its neighbours on either side, pixels.
        """

    @property
    def patch_size(self) -> int:
        """Side of a ViT patch, pixels."""

    @property
    def views(self) -> list[View]:
        """In the order in which the crops reach the encoder."""

    def __repr__(self) -> str: ...

def layout(spec: Spec, height: int, width: int, max_crops: int | None = None) -> Layout: ...

def count_batch(spec: Spec, sizes: Annotated[NDArray[numpy.int64], dict(shape=(None, 2), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], count: Count, max_crops: int | None, num_threads: int) -> None: ...

def grid_batch(spec: Spec, sizes: Annotated[NDArray[numpy.int64], dict(shape=(None, 2), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.int64], dict(shape=(None, 2), order='C', device='cpu')], max_crops: int | None, num_threads: int) -> None: ...

def scale_batch(spec: Spec, sizes: Annotated[NDArray[numpy.int64], dict(shape=(None, 2), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')], max_crops: int | None, num_threads: int) -> None: ...

class SizeLimit:
    def __init__(self, max_side: int, max_ratio: float, num_threads: int) -> None: ...

def is_bounded(spec: Spec, count: Count) -> bool: ...

def worst_case(spec: Spec, max_crops: int | None, count: Count) -> tuple[int, Layout]: ...

def worst_cases(spec: Spec, max_crops: int | None, counts: Sequence[Count], limit: SizeLimit) -> list[tuple[int, Layout]]: ...

def largest_max_crops(spec: Spec, count: Count, max_count: int, limit: SizeLimit | None) -> int | None: ...

class Resize(enum.Enum):
    BILINEAR_ROUNDED = 0

    BILINEAR_ROUNDED_ONE_THREAD = 1

    BILINEAR_ANTIALIAS = 2

class PixelType(enum.Enum):
    FLOAT32 = 0

    BFLOAT16 = 1

    FLOAT16 = 2

class PixelRule:
    def __init__(self, resize: Resize, mean: Sequence[float], std: Sequence[float]) -> None: ...

class Preprocessor:
    """
    The fused path from images to the crops' patches; runs without the GIL.
    """

    def __init__(self, rule: PixelRule, type: PixelType) -> None: ...

    def layout(self, spec: Spec, height: int, width: int, max_crops: int | None = None) -> Layout:
        """
        The layout of an image; raises ValueError, saying why, if the pixel path cannot execute it.
        """

    def run(self, images: Sequence[NDArray[numpy.uint8]], layouts: Sequence[Layout], out: NDArray[numpy.generic], num_threads: int) -> None:
        """
        uint8 [height, width, 3] images of any strides into out [crops, patches, values], 2 or 4 bytes each.
        """

class BufferPool:
    """
    Memory for outputs, on huge pages where they can be had, kept for reuse.
    """

    def __init__(self, capacity_bytes: int) -> None: ...

    def empty(self, num_bytes: int) -> numpy.typing.NDArray[numpy.uint8]:
        """
        uint8 [num_bytes] of any content, 64-byte aligned; its memory comes back when nothing refers to it.
        """

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for reuse."""

def feature_grids(spec: Spec, layout: Layout) -> tuple[int, int, int, int]: ...

def num_features(spec: Spec, layouts: Sequence[Layout]) -> int:
    """Features of the images of a batch together."""

def write_token_pooling(spec: Spec, layouts: Sequence[Layout], pooling: Annotated[NDArray[numpy.int32], dict(order='C', device='cpu')], grids: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu')], num_crops: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu')]) -> None:
    """
    Into int32 [features, pooled patches], int64 [images, 4], int64 [images].
    """

def write_positions(spec: Spec, layouts: Sequence[Layout], token_ids: Sequence[int], unused: int, positions: Annotated[NDArray[numpy.int32], dict(order='C', device='cpu')], masks: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu')], tokens: Annotated[NDArray[numpy.int32], dict(order='C', device='cpu')]) -> None:
    """
    Into int32 [crops, features a crop], float32 [crops, patches], int32 [tokens].
    """

def memory_floor(out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], source: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], num_threads: int) -> int:
    """
    Fills out past the caches and reads source once: what a preprocessor that needs every pixel must do.
    """

class ViewWord(enum.IntEnum):
    """Words of a view in a DevicePlan, in order."""

    ADDRESS = 0

    ROW_STRIDE = 1

    COL_STRIDE = 2

    CHANNEL_STRIDE = 3

    HEIGHT = 4

    WIDTH = 5

    TOP = 6

    LEFT = 7

    CONTENT_HEIGHT = 8

    CONTENT_WIDTH = 9

    ROWS = 10

    COLS = 11

    ROW_TAPS = 12

    COL_TAPS = 13

    ROW_WEIGHTS = 14

    COL_WEIGHTS = 15

    CHAINED = 16

    WORKSPACE = 17

    FIRST_TILE = 18

    END = 19

class CropWord(enum.IntEnum):
    """Words of a crop in a DevicePlan, in order."""

    VIEW = 0

    TOP = 1

    LEFT = 2

    OUTPUT = 3

    END = 4

class DevicePlan:
    """
    All that a device needs to execute the layouts of a batch, as one block of 64-bit words:
    14 float constants, views, crops, axes.
    """

    def __init__(self, preprocessor: Preprocessor, sources: Sequence[Sequence[int]], layouts: Sequence[Layout], tile_rows: int, tile_values: int) -> None:
        """
        sources: (address, row, column and channel stride in bytes) of each image on the device.
        tile_rows, tile_values: horizontally resized rows that one program makes, and values of each.
        """

    @property
    def num_words(self) -> int:
        """Length of the block."""

    @property
    def num_views(self) -> int: ...

    @property
    def num_crops(self) -> int: ...

    @property
    def first_view_word(self) -> int:
        """Where the views begin."""

    @property
    def first_crop_word(self) -> int:
        """Where the crops begin."""

    @property
    def is_rounded(self) -> bool:
        """Whether pixels are rounded to 8 bits, and not antialiased."""

    @property
    def num_tiles(self) -> int:
        """Of the horizontal pass; 0 where no view needs one."""

    @property
    def workspace_floats(self) -> int:
        """What the horizontal pass writes."""

    @property
    def by_arithmetic(self) -> bool:
        """Whether the reciprocals give what the division gives."""

    def write(self, words: NDArray[numpy.int64]) -> None:
        """Into int64 [num_words]."""
