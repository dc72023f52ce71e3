"""Pictures of the cut: what a Layout does to an image, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont, ImageOps

from maxcrops._core import Layout, View
from maxcrops._layout import layout as layout_of
from maxcrops.specs import Spec

_LONGEST_SIDE = 1200
_MANY_VIEWS = 16  # more of them are drawn smaller
_GAP = 24
_BACKGROUND = (250, 250, 248)
_INK = (30, 30, 30)
_PADDING = (205, 205, 205)
_SHARED = (255, 140, 0, 70)
_OUTLINES = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189))
_SHEET_COLUMNS = 4
_SQUARE = 80  # of the test card, pixels
_TITLE, _BODY = 20, 16  # sizes of the letters, pixels

_Box: TypeAlias = tuple[int, int, int, int]  # (top, left, height, width) in pixels


def draw_layout(
    layout: Layout, image: Image.Image, *, spec: Spec | None = None, longest_side: int = _LONGEST_SIDE
) -> Image.Image:
    """Draws the cut on the image.

    Each view stands on its own canvas: what it shows of the image, resized, where its content lies, padding hatched in
    grey, every crop outlined and numbered in the encoder's order, and what neighbours share tinted. Where views show
    parts of the image, the image stands first with the parts outlined. The numbers stand below.

    Args:
        layout: of the image.
        image: upright, of the layout's size.
        spec: named in the caption where given.
        longest_side: of a drawn canvas, pixels; larger canvases are drawn smaller.

    Returns:
        An RGB image, some two canvases wide.

    Raises:
        ValueError: the image is not of the layout's size.
    """
    if (image.height, image.width) != (layout.height, layout.width):
        raise ValueError(
            f"[draw_layout] image must be {layout.height} x {layout.width} (height x width) as its layout,"
            f" got {image.height} x {image.width}"
        )
    image = image.convert("RGB")
    whole = (0, 0, layout.height, layout.width)
    first_numbers = accumulate((len(view.crops) for view in layout.views), initial=1)
    views = dict(zip(first_numbers, layout.views, strict=False))
    panels = []
    parts = {number: view.source for number, view in views.items() if view.source != whole}
    if parts:
        scale = min(1.0, longest_side / 2 / max(whole))
        panel = _canvas(image, whole, (layout.height, layout.width), whole, scale)
        _outline(panel, parts, scale)
        panels.append(_labelled(panel, [f"the image, {layout.height} x {layout.width} px"]))
    scale = min(1.0, longest_side / max(max(view.canvas) for view in layout.views), (_MANY_VIEWS / len(views)) ** 0.5)
    for number, view in views.items():
        panel = _canvas(image, view.source, view.canvas, view.content, scale)
        if not view.is_global:
            _tint(panel, _shared(view), scale)
        _outline(panel, dict(enumerate(view.crops, start=number)), scale, margin=layout.margins[0])
        panels.append(_labelled(panel, _label(view, is_part=view.source != whole)))
    return _framed(_column([_rows(panels, 2 * longest_side + _GAP), _text(_caption(layout, spec), _TITLE)]))


def _canvas(image: Image.Image, source: _Box, size: tuple[int, int], content: _Box, scale: float) -> Image.Image:
    """A canvas of (height, width) with a part of the image resized to its content."""
    height, width = (max(1, round(side * scale)) for side in size)
    panel = Image.new("RGB", (width, height), _PADDING)
    draw = ImageDraw.Draw(panel)
    for offset in range(-height, width, 12):  # hatching, seen where there is padding
        draw.line([(offset, height), (offset + height, 0)], fill=(170, 170, 170), width=1)
    top, left, content_height, content_width = (length * scale for length in content)
    resized = max(1, round(content_width)), max(1, round(content_height))
    source_top, source_left, source_height, source_width = source
    if source_height and source_width:  # a quarter of one pixel is empty
        part = image.crop((source_left, source_top, source_left + source_width, source_top + source_height))
        panel.paste(part.resize(resized, Image.Resampling.BILINEAR), (round(left), round(top)))
    return panel


def _tint(panel: Image.Image, boxes: Iterable[_Box], scale: float) -> None:
    draw = ImageDraw.Draw(panel, "RGBA")
    for box in boxes:
        draw.rectangle(_corners(box, scale), fill=_SHARED)


def _outline(panel: Image.Image, boxes: Mapping[int, _Box], scale: float, *, margin: int = 0) -> None:
    """Outlines boxes by number; the number stands behind the margin that a crop shares with the one before."""
    draw = ImageDraw.Draw(panel, "RGBA")
    font = _font(max(12, min(48, round(min(panel.size) / 16))))
    for number, box in boxes.items():
        left, top, right, bottom = _corners(box, scale)
        colour = _OUTLINES[(number - 1) % len(_OUTLINES)]
        inset = number % 2 * 2  # neighbours overlap: keep both outlines visible
        if right - left > 2 * inset and bottom - top > 2 * inset:
            draw.rectangle((left + inset, top + inset, right - inset, bottom - inset), outline=colour, width=2)
        at = (left + (margin * scale if left else 0) + 8, top + (margin * scale if top else 0) + 6)
        draw.rectangle(draw.textbbox(at, str(number), font=font), fill=(255, 255, 255, 190))
        draw.text(at, str(number), fill=colour, font=font)


def _corners(box: _Box, scale: float) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) as Pillow draws it, both ends included."""
    top, left, height, width = (round(length * scale) for length in box)
    return left, top, left + max(width, 1) - 1, top + max(height, 1) - 1


def _shared(view: View) -> list[_Box]:
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


def draw_sheet(specs: Iterable[Spec], image: Image.Image | None = None, *, longest_side: int = 320) -> Image.Image:
    """Draws the same image as each of several models cuts it, one picture a model.

    A model that does not cut the image at its setting stands there twice: so, and with the first of its choices that
    makes it cut.

    Args:
        specs: from ``get_spec`` or ``load_spec``.
        image: upright; a test card where None.
        longest_side: of a drawn canvas, pixels.

    Returns:
        An RGB image, four pictures a row.

    Raises:
        ValueError: no spec at all.
    """
    image = (draw_test_card() if image is None else image).convert("RGB")
    pictures = [
        draw_layout(
            layout_of(shown, height=image.height, width=image.width), image, spec=shown, longest_side=longest_side
        )
        for spec in specs
        for shown in [spec, *cutting(spec, height=image.height, width=image.width)]
    ]
    if not pictures:
        raise ValueError("[draw_sheet] specs must hold at least one Spec")
    width = max(picture.width for picture in pictures)
    cells = [
        ImageOps.pad(picture, (width, picture.height), color=_BACKGROUND, centering=(0, 0)) for picture in pictures
    ]
    return _column([_row(cells[at : at + _SHEET_COLUMNS]) for at in range(0, len(cells), _SHEET_COLUMNS)])


def cutting(spec: Spec, *, height: int, width: int) -> list[Spec]:
    """The spec with the first of its choices at which an image makes several crops; empty where it does already."""
    if layout_of(spec, height=height, width=width).num_crops > 1:
        return []
    changed = (spec.replace(**{choice: value}) for choice, values in spec.choices.items() for value in values)
    return [other for other in changed if layout_of(other, height=height, width=width).num_crops > 1][:1]


def draw_test_card(height: int = 720, width: int = 1280) -> Image.Image:
    """An image to see cuts by: squares of 80 px, circles in every second one, numbers of the pixels at the edges.

    Circles tell how an image is stretched, colours (red grows downwards, blue to the right) where a crop comes from.
    """
    rise = [Image.linear_gradient("L").resize((width, height)), Image.new("L", (width, height), 150)]
    rise.append(Image.linear_gradient("L").rotate(90).resize((width, height)))
    card = Image.blend(Image.merge("RGB", rise), Image.new("RGB", (width, height), (255, 255, 255)), 0.35)
    draw = ImageDraw.Draw(card)
    font = _font(20)
    for top in range(0, height, _SQUARE):
        draw.line([(0, top), (width, top)], fill=_INK)
        draw.text((4, top + 2), str(top), fill=_INK, font=font)
    for left in range(0, width, _SQUARE):
        draw.line([(left, 0), (left, height)], fill=_INK)
        draw.text((left + 4, 2), str(left), fill=_INK, font=font)
    for row, top in enumerate(range(_SQUARE, height, _SQUARE)):
        for left in range(_SQUARE + row % 2 * _SQUARE, width, 2 * _SQUARE):
            draw.ellipse([left + 4, top + 4, left + _SQUARE - 4, top + _SQUARE - 4], outline=_INK, width=3)
    draw.rectangle([0, 0, width - 1, height - 1], outline=_INK, width=4)
    return card


# -- words -------------------------------------------------------------------------------------------------------------


def _label(view: View, *, is_part: bool) -> list[str]:
    canvas = f"{view.canvas[0]} x {view.canvas[1]} px"
    if view.is_global:
        return [f"global crop, {canvas}"]
    if is_part:
        top, left, height, width = view.source
        return [f"local crop, {canvas}", f"of {height} x {width} px at {top}, {left}"]
    if len(view.crops) == 1:
        return [f"local crop, {canvas}"]
    return [f"local crops: {len(view.crops)} on a canvas of {canvas}"]


def _caption(layout: Layout, spec: Spec | None) -> list[str]:
    rows, cols = layout.grid
    grid = f"grid {rows} x {cols}" if rows else "no local crops"
    crops = "1 crop" if layout.num_crops == 1 else f"{layout.num_crops} crops"
    kept = "full resolution" if layout.scale >= 1 else f"shrunk {1 / layout.scale:.2f} x"
    counts = [
        f"{layout.sequence_tokens} sequence token{'' if layout.sequence_tokens == 1 else 's'}",
        *([f"{layout.cross_attention_keys} cross-attention keys"] if layout.cross_attention_keys else []),
        f"{layout.connector_outputs} connector outputs",
        f"{layout.vit_patches} ViT patches",
    ]
    lines = [", ".join([spec.key, *(f"{name}={value}" for name, value in spec.chosen.items())])] if spec else []
    lines += [f"image {layout.height} x {layout.width} px, {grid}, {crops}, {kept}", ", ".join(counts)]
    if any(layout.margins) and layout.grid != (0, 0):
        before, behind = layout.margins
        lines.append(f"tinted: shared by neighbours, {before} px before and {behind} px behind each window")
    return lines


# -- arranging ---------------------------------------------------------------------------------------------------------


def _labelled(panel: Image.Image, lines: Sequence[str]) -> Image.Image:
    return _column([_text(lines, _BODY), panel], gap=4)


def _text(lines: Sequence[str], first_size: int) -> Image.Image:
    """Lines of text, the first in letters of a size of its own."""
    fonts = [_font(_BODY if at else first_size) for at in range(len(lines))]
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(int(measure.textlength(line, font=font)) + 1 for line, font in zip(lines, fonts, strict=True))
    line_height = first_size * 5 // 4
    picture = Image.new("RGB", (width, line_height * len(lines)), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for at, (line, font) in enumerate(zip(lines, fonts, strict=True)):
        draw.text((0, at * line_height), line, fill=_INK, font=font)
    return picture


def _rows(pictures: Sequence[Image.Image], width: int) -> Image.Image:
    """Pictures side by side, in as many rows as a width asks for."""
    rows: list[list[Image.Image]] = []
    for picture in pictures:
        if rows and sum(other.width + _GAP for other in rows[-1]) + picture.width <= width:
            rows[-1].append(picture)
        else:
            rows.append([picture])
    return _column([_row(row) for row in rows])


def _row(pictures: Sequence[Image.Image]) -> Image.Image:
    width = sum(picture.width + _GAP for picture in pictures) - _GAP
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), _BACKGROUND)
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + _GAP
    return row


def _column(pictures: Sequence[Image.Image], *, gap: int = _GAP) -> Image.Image:
    height = sum(picture.height + gap for picture in pictures) - gap
    column = Image.new("RGB", (max(picture.width for picture in pictures), height), _BACKGROUND)
    top = 0
    for picture in pictures:
        column.paste(picture, (0, top))
        top += picture.height + gap
    return column


def _framed(picture: Image.Image) -> Image.Image:
    framed = Image.new("RGB", (picture.width + 2 * _GAP, picture.height + 2 * _GAP), _BACKGROUND)
    framed.paste(picture, (_GAP, _GAP))
    return framed


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
