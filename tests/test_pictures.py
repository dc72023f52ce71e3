"""Pictures: of a cut, for every family and odd images, and of a plan."""

import sys

import numpy as np
import pytest
from PIL import Image

import maxcrops as mc
from maxcrops.drawing import _canvas, cutting, draw_layout, draw_sheet, draw_test_card
from maxcrops.planning.plotting import plot_plan
from maxcrops.specs import FAMILIES

KEYS = [family.spec.key for family in FAMILIES]
PARTS = {
    "gemma3": mc.get_spec("gemma3", do_pan_and_scan=True),
    "idefics2": mc.get_spec("idefics2", do_image_splitting=True),
}
"""Views that show parts of the image."""


def _image(height, width, mode="RGB"):
    return Image.effect_noise((width, height), 90).convert(mode)


def _assert_sheet(sheet):
    assert sheet.mode == "RGB"
    assert 300 <= sheet.width <= 4000
    assert 100 <= sheet.height <= 2600
    assert len(sheet.getcolors(1 << 24)) > 10


@pytest.mark.parametrize("size", [(1, 1), (30, 2000), (2000, 30), (480, 640), (3000, 2000)])
@pytest.mark.parametrize("key", KEYS)
def test_every_family_and_odd_sizes(key, size):
    spec = mc.get_spec(key)
    layout = mc.layout(spec, height=size[0], width=size[1])
    _assert_sheet(draw_layout(layout, _image(*size), spec=spec))


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
@pytest.mark.parametrize("key", KEYS)
def test_one_pixel_sides(key, size):
    spec = mc.get_spec(key)
    layout = mc.layout(spec, height=size[0], width=size[1])
    _assert_sheet(draw_layout(layout, _image(*size), spec=spec))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA", "I;16"])
def test_modes(mode):
    spec = mc.get_spec("molmo2")
    layout = mc.layout(spec, height=480, width=640)
    image = Image.new("I;16", (640, 480), 1000) if mode == "I;16" else _image(480, 640, mode)
    before = image.tobytes()
    _assert_sheet(draw_layout(layout, image, spec=spec))
    assert (image.mode, image.tobytes()) == (mode, before)


@pytest.mark.parametrize("max_crops", [1, 2, 36, 200])
def test_few_and_many_crops(max_crops):
    spec = mc.get_spec("molmo-7b-d")
    layout = mc.layout(spec, height=1200, width=1600, max_crops=max_crops)
    _assert_sheet(draw_layout(layout, _image(1200, 1600), spec=spec))


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (480, 641), (3000, 2000)])
@pytest.mark.parametrize("name", PARTS)
def test_parts_of_odd_sizes(name, size):
    layout = mc.layout(PARTS[name], height=size[0], width=size[1])
    _assert_sheet(draw_layout(layout, _image(*size), spec=PARTS[name]))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gemma3", [(0, 0, 500, 500), (0, 500, 500, 500)]),
        ("idefics2", [(0, 0, 250, 500), (0, 500, 250, 500), (250, 0, 250, 500), (250, 500, 250, 500)]),
    ],
)
def test_a_view_shows_its_part_of_the_image(name, parts):
    """Each part has a colour of its own, and so has the canvas of its view."""
    views = [view for view in mc.layout(PARTS[name], height=500, width=1000).views if not view.is_global]
    assert [view.source for view in views] == parts
    image = Image.new("RGB", (1000, 500))
    for at, (top, left, height, width) in enumerate(parts):
        image.paste((40 * at, 100, 250 - 40 * at), (left, top, left + width, top + height))
    for at, view in enumerate(views):
        canvas = _canvas(image, view.source, view.canvas, view.content, 1.0)
        assert (canvas.height, canvas.width) == view.canvas
        assert canvas.getcolors() == [(canvas.width * canvas.height, (40 * at, 100, 250 - 40 * at))]


def test_many_parts_stand_in_rows():
    spec = mc.get_spec("gemma3", do_pan_and_scan=True, max_crops=200, pan_and_scan_min_crop_size=10)
    layout = mc.layout(spec, height=20, width=4000)
    assert layout.num_crops == 201
    picture = draw_layout(layout, _image(20, 4000), spec=spec)
    assert picture.width < 2600
    assert picture.height < 3000


def test_labels_do_not_overlap():
    """Each panel is as wide as its label: of narrow canvases too."""
    layout = mc.layout(mc.get_spec("internvl"), height=3000, width=200)
    narrow = draw_layout(layout, _image(3000, 200), longest_side=100)
    assert narrow.width > 400


def test_smaller_canvases():
    spec = mc.get_spec("molmo-7b-d")
    layout = mc.layout(spec, height=900, width=1500)
    large, small = (draw_layout(layout, _image(900, 1500), spec=spec, longest_side=side) for side in (1200, 300))
    assert small.height < large.height / 2


def test_settings_without_local_crops():
    for key, change in [("molmo", {"crop_mode": "resize"}), ("idefics3", {"do_image_splitting": False})]:
        spec = mc.get_spec(key, **change)
        layout = mc.layout(spec, height=480, width=640)
        _assert_sheet(draw_layout(layout, _image(480, 640), spec=spec))


def test_image_is_seen():
    layout = mc.layout(mc.get_spec("internvl3-8b"), height=448, width=896)
    red = np.asarray(draw_layout(layout, Image.new("RGB", (896, 448), (200, 30, 30)))).reshape(-1, 3)
    blue = np.asarray(draw_layout(layout, Image.new("RGB", (896, 448), (30, 30, 200)))).reshape(-1, 3)
    assert (red == (200, 30, 30)).all(axis=1).mean() > 0.4
    assert (blue == (30, 30, 200)).all(axis=1).mean() > 0.4


def test_same_picture_twice():
    spec = mc.get_spec("molmo-7b-d")
    layout = mc.layout(spec, height=300, width=500)
    image = Image.linear_gradient("L").resize((500, 300))
    first, second = draw_layout(layout, image, spec=spec), draw_layout(layout, image, spec=spec)
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != draw_layout(layout, image).tobytes()  # the caption names the spec


@pytest.mark.parametrize("size", [(640, 480), (480, 641), (1, 1)])
def test_image_of_another_size(size):
    layout = mc.layout(mc.get_spec("molmo2"), height=480, width=640)
    with pytest.raises(ValueError, match=rf"must be 480 x 640 .*got {size[0]} x {size[1]}"):
        draw_layout(layout, _image(*size))


# -- sheets ------------------------------------------------------------------------------------------------------------


def test_a_sheet_has_a_picture_a_family_and_one_more_where_a_choice_cuts(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "maxcrops.drawing.draw_layout",
        lambda layout, image, *, spec, longest_side: drawn.append((spec, layout)) or image.resize((60, 40)),
    )
    sheet = draw_sheet([family.spec for family in FAMILIES])
    assert list(dict.fromkeys(spec.key for spec, _ in drawn)) == KEYS
    twice = {spec.key: dict(spec.chosen) for spec, _ in drawn if spec.chosen}
    assert twice == {
        "got_ocr2": {"crop_to_patches": "true"},
        "aria": {"split_image": "true"},
        "idefics2": {"do_image_splitting": "true"},
        "gemma3": {"do_pan_and_scan": "true"},
        "ovis2": {"crop_to_patches": "true"},
    }
    assert len(drawn) == len(KEYS) + len(twice)
    assert all(layout.num_crops > 1 for spec, layout in drawn if spec.key not in twice or spec.chosen)
    assert sheet.width == 4 * 60 + 3 * 24
    assert sheet.height == -(-len(drawn) // 4) * 64 - 24


def test_a_sheet_of_one_model_and_an_image():
    image = _image(300, 500)
    sheet = draw_sheet([mc.get_spec("molmo")], image, longest_side=200)
    layout = mc.layout(mc.get_spec("molmo"), height=300, width=500)
    assert sheet.tobytes() == draw_layout(layout, image, spec=mc.get_spec("molmo"), longest_side=200).tobytes()
    with pytest.raises(ValueError, match=r"\[draw_sheet\] specs must hold"):
        draw_sheet([])


def test_cutting():
    gemma3 = mc.get_spec("gemma3")
    assert cutting(gemma3, height=400, width=1000) == [gemma3.replace(do_pan_and_scan=True)]
    assert cutting(gemma3, height=400, width=400) == []
    assert cutting(mc.get_spec("molmo"), height=400, width=1000) == []


@pytest.mark.parametrize("size", [(720, 1280), (1, 1), (300, 100)])
def test_a_test_card_is_not_like_its_mirror_images(size):
    card = draw_test_card(*size)
    assert (card.height, card.width) == size
    if size != (1, 1):
        pixels = np.asarray(card)
        assert (pixels != pixels[::-1]).any()
        assert (pixels != pixels[:, ::-1]).any()


# -- plans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sizes": [(480, 640), (1080, 1920), (3000, 4000)]},
        {"sizes": [(480, 640)], "images_per_sample": 4, "max_sequence_length": 8192},
        {"max_sequence_length": 100},
        {"max_sequence_length": 2**18},
        {"max_crops_list": [12]},
    ],
    ids=["plain", "images", "several", "none fits", "long", "one row"],
)
@pytest.mark.parametrize("key", ["molmo-7b-d", "llava_next"])
def test_plot(key, options, tmp_path):
    pytest.importorskip("matplotlib")
    plan = mc.plan(mc.get_spec(key), **options)
    plot_plan(plan, tmp_path / "plan.png")
    with Image.open(tmp_path / "plan.png") as image:
        assert image.size == (1275, 750)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_plot_leaves_pyplot_alone(tmp_path):
    pytest.importorskip("matplotlib")
    before = "matplotlib.pyplot" in sys.modules
    plot_plan(mc.plan(mc.get_spec("molmo2")), str(tmp_path / "plan.svg"))
    assert (tmp_path / "plan.svg").read_text().startswith("<?xml")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_plot_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"maxcrops\[plot\]"):
        plot_plan(mc.plan(mc.get_spec("molmo2")), tmp_path / "plan.png")
    assert not (tmp_path / "plan.png").exists()
