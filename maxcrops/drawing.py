"""A picture of the cut: what a Layout does to an image, for people."""

from __future__ import annotations

from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from maxcrops._core import Layout, View
from maxcrops.specs import Spec

_LONGEST_SIDE = 1200  # of a drawn canvas, pixels
_GAP = 24
_BACKGROUND = (250, 250, 248)
_INK = (30, 30, 30)
_PADDING = (205, 205, 205)
_SHARED = (255, 140, 0, 70)
_OUTLINES = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189))


def draw_layout(layout: Layout, image: Image.Image, *, spec: Spec | None = None) -> Image.Image:
    """Draws the cut on the image.

    Each view stands on its own canvas: the resized image where its content lies, padding hatched in grey, every crop
    outlined and numbered in the encoder's order, and what neighbours share tinted. The numbers stand below.

    Args:
        layout: of the image.
        image: upright, of the layout's size.
        spec: named in the caption where given.

    Returns:
        An RGB image.

    Raises:
        ValueError: the image is not of the layout's size.
    """
    if (image.height, image.width) != (layout.height, layout.width):
        raise ValueError(
            f"[draw_layout] image must be {layout.height} x {layout.width} (height x width) as its layout,"
            f" got {image.height} x {image.width}"
        )
    views = layout.views
    largest = max(max(view.canvas) for view in views)
    scale = min(1.0, _LONGEST_SIDE / largest)
    first_number, panels = 1, []
    for view in views:
        panels.append((view, _draw_view(view, layout, image.convert("RGB"), scale, first_number)))
        first_number += len(view.crops)

    title, body = _font(20), _font(16)
    lines = _caption(layout, spec)
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    text_width = max(int(probe.textlength(line, font=title if not i else body)) for i, line in enumerate(lines))
    width = max(sum(panel.width + _GAP for _, panel in panels) + _GAP, text_width + 2 * _GAP)
    label_height, line_height = 26, 24
    top = _GAP + label_height
    height = top + max(panel.height for _, panel in panels) + _GAP + line_height * len(lines) + _GAP

    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    left = _GAP
    for view, panel in panels:
        draw.text((left, _GAP), _label(view), fill=_INK, font=body)
        sheet.paste(panel, (left, top))
        left += panel.width + _GAP
    y = height - _GAP - line_height * len(lines)
    for i, line in enumerate(lines):
        draw.text((_GAP, y), line, fill=_INK, font=body if i else title)
        y += line_height
    return sheet


def _draw_view(view: View, layout: Layout, image: Image.Image, scale: float, first_number: int) -> Image.Image:
    def scaled(*lengths: int) -> list[int]:
        return [round(length * scale) for length in lengths]

    height, width = (max(1, side) for side in scaled(*view.canvas))
    panel = Image.new("RGB", (width, height), _PADDING)
    draw = ImageDraw.Draw(panel, "RGBA")
    for offset in range(-height, width, 12):  # hatching, seen where there is padding
        draw.line([(offset, height), (offset + height, 0)], fill=(170, 170, 170), width=1)
    top, left, content_height, content_width = view.content
    size = (max(1, round(content_width * scale)), max(1, round(content_height * scale)))
    panel.paste(image.resize(size, Image.Resampling.BILINEAR), (round(left * scale), round(top * scale)))

    if not view.is_global:
        for box in _shared(view, layout):
            t, le, h, w = scaled(*box)
            draw.rectangle([le, t, le + w - 1, t + h - 1], fill=_SHARED)
    font = _font(max(12, round(min(height, width) / 16)))
    before = layout.margins[0] * scale
    for i, (t, le, h, w) in enumerate(view.crops):
        t, le, h, w = scaled(t, le, h, w)
        colour = _OUTLINES[i % len(_OUTLINES)]
        inset = i % 2 * 2  # neighbours overlap: keep both outlines visible
        draw.rectangle([le + inset, t + inset, le + w - 1 - inset, t + h - 1 - inset], outline=colour, width=2)
        at = (le + (before if le else 0) + 8, t + (before if t else 0) + 6)
        number = str(first_number + i)
        draw.rectangle(draw.textbbox(at, number, font=font), fill=(255, 255, 255, 190))
        draw.text(at, number, fill=colour, font=font)
    return panel


def _shared(view: View, layout: Layout) -> list[tuple[int, int, int, int]]:
    """Bands of the canvas that two neighbouring crops both see."""
    bands = []
    tops = sorted({(top, height) for top, _, height, _ in view.crops})
    lefts = sorted({(left, width) for _, left, _, width in view.crops})
    for (top, height), (next_top, _) in pairwise(tops):
        if top + height > next_top:
            bands.append((next_top, 0, top + height - next_top, view.canvas[1]))
    for (left, width), (next_left, _) in pairwise(lefts):
        if left + width > next_left:
            bands.append((0, next_left, view.canvas[0], left + width - next_left))
    return bands


def _label(view: View) -> str:
    height, width = view.canvas
    if view.is_global:
        return f"global crop, {height} x {width} px"
    return f"local crops: {len(view.crops)} on a canvas of {height} x {width} px"


def _caption(layout: Layout, spec: Spec | None) -> list[str]:
    rows, cols = layout.grid
    kept = "full resolution" if layout.scale >= 1 else f"shrunk {1 / layout.scale:.2f} x"
    name = f"{spec.key}: " if spec else ""
    lines = [
        f"{name}image {layout.height} x {layout.width} px, grid {rows} x {cols}, {layout.num_crops} crops, {kept}",
        f"{layout.sequence_tokens} sequence tokens, {layout.connector_outputs} connector outputs,"
        f" {layout.vit_patches} ViT patches",
    ]
    if any(layout.margins) and layout.grid != (0, 0):
        before, behind = layout.margins
        lines.append(f"tinted: shared by neighbours, {before} px before and {behind} px behind each window")
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
