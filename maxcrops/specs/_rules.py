"""The rules that a Spec is made of: plain frozen data, each lowered once to the core.

A grid rule says how the grid of local crops is found, a crop rule what a crop is, a token rule what it costs, a pixel
rule what the encoder reads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, TypeAlias, get_args, get_type_hints

from maxcrops import _core

# -- grid rules: one class a policy ------------------------------------------------------------------------------


class _GridRule:
    policy: ClassVar[str]
    knob_field: ClassVar[str | None]
    """The field that max_crops stands for."""

    def _lower(self: Any) -> _core.GridRule:
        rule = _core.GridRule()
        rule.policy = _core.GridPolicy[self.policy.upper()]
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "split":
                value = _core.SplitGate[value.upper()]
            setattr(rule, f.name, 0 if value is None else value)
        return rule


@dataclass(frozen=True, kw_only=True)
class Fixed(_GridRule):
    """The same grid for every image; 0 x 0 leaves only the global crop."""

    policy = "fixed"
    knob_field = None
    rows: int
    cols: int


@dataclass(frozen=True, kw_only=True)
class ScaleFit(_GridRule):
    """Least upscaling to a canvas of at most max_crops crops, else least downscaling, then fewest crops."""

    policy = "scale_fit"
    knob_field = "max_crops"
    max_crops: int
    """Most local crops."""
    clamp_reduced_sides: bool = False
    """Whether a side shorter than the overlap margins counts as 1 px instead of forcing one crop."""
    largest_upscaling: bool = False
    """Whether the most upscaling that a canvas of at most max_crops crops allows is taken instead of the least."""


@dataclass(frozen=True, kw_only=True)
class ClosestRatio(_GridRule):
    """The grid whose aspect ratio is nearest to the image's; equal ratios are decided by the image's area."""

    policy = "closest_ratio"
    knob_field = "max_crops"
    max_crops: int
    """Most local crops."""
    min_crops: int = 1
    """Fewest local crops."""
    max_grid_side: int | None = None
    """Most rows and most columns."""
    split: Literal["always", "above_crop", "above_area", "above_grid"] = "always"
    """Which images are searched for: every one; those with a side longer than the crop; those of more than
    ``split_tolerance * max_features`` features once both sides are rounded to whole ones; or those that more than
    max_crops crops of unscaled pixels would be needed for. The others have no local crop, or, with ``above_grid``,
    those crops."""
    split_tolerance: float = 0.0
    """For ``above_area``."""


@dataclass(frozen=True, kw_only=True)
class BestResolution(_GridRule):
    """The listed resolution that keeps most of the image, then the one that wastes least."""

    policy = "best_resolution"
    knob_field = "resolutions"
    resolutions: tuple[tuple[int, int], ...]
    """(height, width) in pixels. A call's max_crops leaves out the entries that make more local crops."""


@dataclass(frozen=True, kw_only=True)
class CeilGrid(_GridRule):
    """Scale the long side to longest_edge, then round both sides up to whole crops."""

    policy = "ceil_grid"
    knob_field = "longest_edge"
    longest_edge: int
    """Pixels. A call's max_crops sets the largest multiple of the crop size whose square grid it holds."""
    longest_edge_limit: int = 4096
    """Pixels; longer edges are scaled back to it."""


@dataclass(frozen=True, kw_only=True)
class LogRatio(_GridRule):
    """As many crops as the image's area fills, give or take one, in the grid nearest by the logarithm of its ratio."""

    policy = "log_ratio"
    knob_field = "max_crops"
    max_crops: int
    """Most local crops."""


@dataclass(frozen=True, kw_only=True)
class CoveringArea(_GridRule):
    """The fewest crops that keep a share of the image's area, else those that keep most of it."""

    policy = "covering_area"
    knob_field = "max_crops"
    max_crops: int
    """Most local crops."""
    covering_threshold: float = 0.9
    """Share of the area; more than it suffices."""
    compensated_sum: bool = True
    """Whether areas are summed as Python 3.12 and later do, which decides one size in thirty."""
    transposed: bool = False
    """Whether rows and columns are exchanged once the grid is found."""


@dataclass(frozen=True, kw_only=True)
class LargestCanvas(_GridRule):
    """The canvas that enlarges the image most, else the one whose ratio comes nearest from inside."""

    policy = "largest_canvas"
    knob_field = "max_crops"
    max_crops: int
    """Most local crops."""


@dataclass(frozen=True, kw_only=True)
class PanAndScan(_GridRule):
    """A long image in slices along its long side, each resized to a crop of its own."""

    policy = "pan_and_scan"
    knob_field = "max_crops"
    max_crops: int
    """Most local crops."""
    min_slice_size: int = 256
    """Pixels; no slice has a shorter side."""
    min_ratio: float = 1.2
    """Of the long side to the short one; below it the image is not sliced."""


@dataclass(frozen=True, kw_only=True)
class WindowSnap(_GridRule):
    """A window by the image's shape; both sides are rounded to whole windows, each resized to a crop."""

    policy = "window_snap"
    knob_field = "max_image_size"
    max_image_size: int
    """Pixels; longer images are scaled to it first. A call's max_crops sets the largest multiple of the crop size whose
    square grid it holds; thin images make more crops all the same."""


GridRule: TypeAlias = (
    Fixed
    | ScaleFit
    | ClosestRatio
    | BestResolution
    | CeilGrid
    | LogRatio
    | CoveringArea
    | LargestCanvas
    | PanAndScan
    | WindowSnap
)

# -- crops ---------------------------------------------------------------------------------------------------------

Fit: TypeAlias = Literal[
    "stretch", "letterbox_trunc", "letterbox_ceil", "letterbox_round", "top_left", "top_left_no_upscale"
]
Sizing: TypeAlias = Literal["square", "features", "area", "edges"]


@dataclass(frozen=True, kw_only=True)
class CropRule:
    """What a crop is, and how the image meets the canvas that crops are cut from."""

    crop_size: int
    """Side of the square that the vision encoder sees, pixels."""
    global_crop_size: int | None = None
    """The same for the global crop; as crop_size where None."""
    patch_size: int
    """Side of a ViT patch, pixels."""
    pooling: tuple[int, int] = (1, 1)
    """(rows, cols) of patches that become one feature."""
    global_pooling: tuple[int, int] | None = None
    """The same for the global crop; as pooling where None."""
    overlap_margins: tuple[int, int] = (0, 0)
    """(before, behind): patches that a crop shares with its neighbours on either side."""
    global_crop: Literal["never", "when_split", "when_unsplit", "always"] = "always"
    """When a low-resolution crop of the whole image comes beside the local ones: ``when_split`` leaves it out beside a
    single one, ``when_unsplit`` beside any."""
    global_position: Literal["first", "last"] = "first"
    """Where it stands among the encoder's crops."""
    fit: Fit = "stretch"
    """How the image meets the canvas of the local crops: stretched; or with its ratio kept and padding around it (sides
    truncated in float32, rounded up in float64, or rounded half to even); or padding right and below."""
    global_fit: Fit = "stretch"
    """The same for the global crop."""
    sizing: Sizing = "square"
    """The size of a local crop: a square of crop_size; or one that keeps the image's ratio: near the square's area, or
    within shortest_edge and longest_edge."""
    global_sizing: Sizing = "square"
    """The same for the global crop; also ``features``: the image's own size in whole features, scaled where those are
    fewer than min_features or more than max_features."""
    min_features: int = 0
    """Of a global crop sized by ``features``."""
    max_features: int = 0
    """The same."""
    shortest_edge: int = 0
    """Of crops sized by ``edges``, pixels."""
    longest_crop_edge: int = 0
    """The same."""
    fills_batch: bool = False
    """Whether the encoder always gets max_crops crops, blank ones where the image has fewer."""
    min_content_side: int = 0
    """The processor raises for an image of which a side is shorter than this once it lies on a canvas, pixels."""

    def _lower(self) -> _core.CropRule:
        rule = _core.CropRule()
        rule.crop_size = self.crop_size
        rule.global_crop_size = self.global_crop_size or 0
        rule.patch_size = self.patch_size
        rule.pooling_rows, rule.pooling_cols = self.pooling
        rule.global_pooling_rows, rule.global_pooling_cols = self.global_pooling or (0, 0)
        rule.left_margin, rule.right_margin = self.overlap_margins
        rule.global_crop = _core.GlobalCrop[self.global_crop.upper()]
        rule.global_first = self.global_position == "first"
        rule.fit = _core.Fit[self.fit.upper()]
        rule.global_fit = _core.Fit[self.global_fit.upper()]
        rule.sizing = _core.Sizing[self.sizing.upper()]
        rule.global_sizing = _core.Sizing[self.global_sizing.upper()]
        rule.min_features, rule.max_features = self.min_features, self.max_features
        rule.shortest_edge, rule.longest_crop_edge = self.shortest_edge, self.longest_crop_edge
        rule.fills_batch = self.fills_batch
        rule.min_content_side = self.min_content_side
        return rule


# -- tokens: two shapes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tiled:
    """Every crop costs a constant; separators come per crop, per row and per image.

    For rows x cols = n local crops::

        image_extra + n * (tokens_per_crop + crop_extra) + rows * row_end + (rows - 1) * row_separator
        + (global_tokens + global_extra if there is a global crop) + (split_extra if n > 1)
    """

    tokens_per_crop: int | None
    """None: one for each feature of the crop's own size."""
    crop_extra_tokens: int = 0
    row_end_tokens: int = 0
    row_separator_tokens: int = 0
    global_tokens: int | Literal["features"] | None = None
    """As tokens_per_crop where None; ``features``: one for each feature of its own size."""
    global_extra_tokens: int = 0
    image_extra_tokens: int = 0
    split_extra_tokens: int = 0
    cross_attention_keys: int = 0
    """Of a crop: what the language model's cross-attention layers read instead of tokens."""

    def _lower(self) -> _core.TokenRule:
        rule = _core.TokenRule()
        rule.shape = _core.TokenShape.TILED
        per_global = self.tokens_per_crop if self.global_tokens is None else self.global_tokens
        rule.tokens_per_crop = self.tokens_per_crop or 0
        rule.global_tokens = per_global if isinstance(per_global, int) else 0
        rule.counts_features = self.tokens_per_crop is None
        rule.counts_global_features = not isinstance(per_global, int)
        rule.crop_extra = self.crop_extra_tokens
        rule.row_end = self.row_end_tokens
        rule.row_separator = self.row_separator_tokens
        rule.global_extra = self.global_extra_tokens
        rule.image_extra = self.image_extra_tokens
        rule.split_extra = self.split_extra_tokens
        rule.cross_attention_keys = self.cross_attention_keys
        return rule


@dataclass(frozen=True, kw_only=True)
class Stitched:
    """The local crops' features form one map of R x C; a column token can end each of its rows.

    ::

        start_end + R * (C + col) + low_res_start_end + low_res_rows * (low_res_cols + low_res_col) + extra

    R and C come from the crop rule: patches that neighbours share are counted once, then pooled.
    """

    col_tokens: bool
    """Whether a token ends each row of the map."""
    low_res_col_tokens: bool
    """Whether one ends each row of the global crop's features."""
    start_end_tokens: int = 0
    """Around the map."""
    low_res_start_end_tokens: int = 0
    """Around the global crop's features."""
    pool_across_crops: bool = False
    """Whether pooling sees the stitched map; otherwise each crop is pooled on its own."""
    unpad: Literal["never", "by_ratio", "by_patches"] = "never"
    """Whether rows and columns of the map that hold only padding are dropped: as the image's ratio tells, on both
    sides; or whole patches of it, right and below."""
    max_map_crops: int | None = None
    """A larger map than this many crops make is scaled down."""
    num_additional_image_tokens: int = 0
    """Added once an image (a class token that the encoder emits, say)."""
    drop_class_token: bool = False
    """Whether one token is taken off again."""

    def _lower(self) -> _core.TokenRule:
        rule = _core.TokenRule()
        rule.shape = _core.TokenShape.STITCHED
        rule.col_tokens = int(self.col_tokens)
        rule.low_res_col_tokens = int(self.low_res_col_tokens)
        rule.map_extra = self.start_end_tokens
        rule.global_extra = self.low_res_start_end_tokens
        rule.image_extra = self.num_additional_image_tokens - int(self.drop_class_token)
        rule.pool_across_crops = self.pool_across_crops
        rule.unpad = _core.Unpad[self.unpad.upper()]
        rule.max_map_crops = self.max_map_crops or 0
        return rule


TokenRule: TypeAlias = Tiled | Stitched

# -- pixels --------------------------------------------------------------------------------------------------------

Resize: TypeAlias = Literal["bilinear_rounded", "bilinear_rounded_one_thread", "bilinear_antialias"]
Pack: TypeAlias = Literal["token_pooling", "feature_positions"]


@dataclass(frozen=True, kw_only=True)
class PixelRule:
    """How pixels become what the encoder reads: one resize of each view, then (value - mean) / std, in float32.

    What "the same pixels" means: the arithmetic below is that of torch's CPU kernels on a machine with fused
    multiply-add.
    """

    resize: Resize
    """``bilinear_rounded``: without antialias, rounded to 8 bits, as torch gives it on two or more threads;
    ``bilinear_rounded_one_thread``: as torch gives it on one thread, a step apart in some 20 pixels of a million (and
    on any number where height and width are 128 px or less together);
    ``bilinear_antialias``: values in 0..1, with antialias, never rounded."""
    image_mean: tuple[float, float, float]
    """Of red, green and blue in 0..1."""
    image_std: tuple[float, float, float]
    pack: Pack
    """Which index tensors come with the crops: the patches that each token pools, or where in the sequence each crop's
    features stand."""


# -- types of their fields -----------------------------------------------------------------------------------------

Rule: TypeAlias = GridRule | CropRule | TokenRule | PixelRule
RULES: dict[str, tuple[type, ...]] = {
    "grid": get_args(GridRule),
    "crop": (CropRule,),
    "tokens": get_args(TokenRule),
    "pixels": (PixelRule,),
}


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(is_integer, value))


def _is_three_numbers(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_is_finite, value))


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a 64-bit integer", is_integer),
    "float": ("a finite number", _is_finite),
    "int | None": ("a 64-bit integer or None", lambda value: value is None or is_integer(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "tuple[int, int]": ("a pair of integers", _is_pair),
    "tuple[int, int] | None": ("a pair of integers or None", lambda value: value is None or _is_pair(value)),
    "int | Literal['features'] | None": (
        "a 64-bit integer, 'features' or None",
        lambda value: value in (None, "features") or is_integer(value),
    ),
    "tuple[float, float, float]": ("three finite numbers", _is_three_numbers),
    "tuple[tuple[int, int], ...]": (
        "a list of pairs of integers",
        lambda value: isinstance(value, tuple) and all(map(_is_pair, value)),
    ),
}


@cache
def _types_of(rule: type) -> dict[str, Any]:
    """The fields' types: all annotations of a class are evaluated, and the registry makes hundreds of rules."""
    return get_type_hints(rule)


def require_types(key: str, rule: Rule) -> None:
    """Raises TypeError or ValueError for the first field whose value is not of the field's type."""
    for f in dataclasses.fields(rule):
        value = getattr(rule, f.name)
        if f.type in _TYPES:
            wanted, fits = _TYPES[str(f.type)]
            if not fits(value):
                raise TypeError(f"[spec] {key}: {f.name} must be {wanted}, got {value!r}")
        else:
            types = _types_of(type(rule))  # type: ignore[arg-type]  # a class has a hash
            allowed = get_args(types[f.name])
            if value not in allowed:
                raise ValueError(f"[spec] {key}: {f.name} must be one of {', '.join(allowed)}, got {value!r}")
