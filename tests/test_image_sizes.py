"""Sizes from headers: as Pillow's upright image has them, without decoding, whatever the file holds."""

import csv
import json
import os
import random
import re
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError, features
from typer.testing import CliRunner

import maxcrops as mc
from maxcrops.cli import main
from maxcrops.cli._app import app
from maxcrops.data import find_images, read_size, read_sizes

ORIENTATION = 0x0112
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
FORMATS = [
    "jpg",
    "png",
    "tif",
    pytest.param("webp", marks=pytest.mark.skipif(not features.check("webp"), reason="Pillow without WebP")),
    pytest.param("avif", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")),
]


def _upright(path):
    """(height, width) as a loader has it that turns images by their EXIF orientation."""
    with Image.open(path) as image:
        width, height = ImageOps.exif_transpose(image).size
    return height, width


def _image(width=44, height=20):
    return Image.radial_gradient("L").resize((width, height)).convert("RGB")


def _exif(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def _raw_profile(orientation):
    """EXIF as ImageMagick writes it into PNG files: hexadecimal text."""
    raw = _exif(orientation).tobytes()
    digits = raw.hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    return f"\nexif\n{len(raw):8}\n{lines}\n"


def _chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def _behind_pixels(path, kind):
    """Moves the PNG file's chunks of one kind behind its pixels."""
    data = path.read_bytes()
    chunks, at = [], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at:end]))
        at = end
    moved = [chunk for name, chunk in chunks if name == kind]
    assert moved
    rest = [chunk for name, chunk in chunks if name not in (kind, b"IEND")]
    path.write_bytes(data[:8] + b"".join(rest + moved) + _chunk(b"IEND", b""))


@pytest.fixture
def no_decoding(monkeypatch):
    """Makes any decoding of pixels fail."""

    def load(self):
        raise AssertionError("decoded")

    for cls in (Image.Image, ImageFile.ImageFile, PngImagePlugin.PngImageFile):
        monkeypatch.setattr(cls, "load", load)


# -- orientation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(suffix, orientation, tmp_path):
    path = tmp_path / f"image.{suffix}"
    _image().save(path, exif=_exif(orientation))
    assert read_size(path) == _upright(path)
    assert read_size(path) == ((44, 20) if orientation >= 5 else (20, 44))
    assert read_size(path.read_bytes()) == read_size(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_behind_the_pixels(orientation, tmp_path):
    path = tmp_path / "image.png"
    _image().save(path, exif=_exif(orientation))
    _behind_pixels(path, b"eXIf")
    assert read_size(path) == _upright(path) == ((44, 20) if orientation >= 5 else (20, 44))


def _save_xmp(path):
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP)
        _image().save(path, pnginfo=info)
    else:
        _image().save(path, xmp=XMP.encode())


@pytest.mark.parametrize("suffix", ["jpg", "png", FORMATS[3]])
def test_orientation_in_xmp(suffix, tmp_path):
    path = tmp_path / f"image.{suffix}"
    _save_xmp(path)
    assert read_size(path) == _upright(path) == (44, 20)


def test_orientation_in_a_raw_profile(tmp_path):
    path = tmp_path / "image.png"
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", _raw_profile(6), zip=True)
    _image().save(path, pnginfo=info)
    assert read_size(path) == _upright(path) == (44, 20)


@pytest.mark.parametrize("kind", [b"iTXt", b"zTXt"])
def test_orientation_in_text_behind_the_pixels(kind, tmp_path):
    path = tmp_path / "image.png"
    if kind == b"iTXt":
        _save_xmp(path)
    else:
        info = PngImagePlugin.PngInfo()
        info.add_text("Raw profile type exif", _raw_profile(6), zip=True)
        _image().save(path, pnginfo=info)
    _behind_pixels(path, kind)
    assert _upright(path) == (44, 20)
    assert read_size(path) == _upright(path)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_unknown_orientation(value, tmp_path):
    path = tmp_path / "image.jpg"
    _image().save(path, exif=_exif(value))
    assert read_size(path) == _upright(path) == (20, 44)


def test_broken_exif_of_a_jpeg(tmp_path):
    path = tmp_path / "image.jpg"
    _image().save(path, exif=b"Exif\0\0garbage")
    assert read_size(path) == _upright(path) == (20, 44)


@pytest.mark.parametrize("suffix", ["gif", "bmp", "ppm", "tga", "jp2", "jpeg"])
def test_formats_without_orientation(suffix, tmp_path):
    if suffix == "jp2" and not features.check("jpg_2000"):
        pytest.skip("Pillow without JPEG 2000")
    path = tmp_path / f"image.{suffix}"
    _image().save(path)
    assert read_size(path) == _upright(path) == (20, 44)


def test_real_photographs():
    folder = Path(pytest.importorskip("skimage").__file__).parent / "data"
    num_read = 0
    for file in read_sizes(find_images([str(folder)])):
        try:
            expected = _upright(file.path)
        except UnidentifiedImageError:  # TIFF files that Pillow does not know
            expected = None
        assert file.size == expected, file
        num_read += expected is not None
    assert num_read >= 10


# -- headers only --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", [None, 6])
def test_pixels_are_not_decoded(suffix, orientation, tmp_path, no_decoding):
    path = tmp_path / f"image.{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        for cls in (Image.Image, ImageFile.ImageFile):  # writing an image loads it
            patch.setattr(cls, "load", lambda self: None)
        options = {} if orientation is None else {"exif": _exif(orientation)}
        Image.new("RGB", (44, 20)).save(path, **options)
    assert read_size(path) == ((44, 20) if orientation == 6 else (20, 44))
    with pytest.raises(mc.ImageReadError, match="decoded"):
        read_size(path, verify=True)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_truncated_body(suffix, orientation, tmp_path):
    path = tmp_path / f"image.{suffix}"
    Image.effect_noise((400, 300), 80).convert("RGB").save(path, exif=_exif(orientation))
    whole = path.read_bytes()
    expected = read_size(path, verify=True)
    assert expected == ((400, 300) if orientation == 6 else (300, 400))
    if suffix == "tif":  # the directory that holds the sizes stands behind the header here, the pixels after it
        assert int.from_bytes(whole[4:8], "little") < 100
    path.write_bytes(whole[: len(whole) // 2])
    assert read_size(path) == expected
    with pytest.raises(mc.ImageReadError, match=r"image\..*: \w+"):
        read_size(path, verify=True)
    (file,) = read_sizes([path], verify=True)
    assert file.size is None
    assert file.error


def test_endless_late_chunk(tmp_path):
    path = tmp_path / "image.png"
    _image().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"IEND") - 4] + (0x7FFFFFFF).to_bytes(4, "big") + b"junk")
    assert read_size(path) == (20, 44)


def test_pillow_s_limit_on_pixels(tmp_path):
    """It holds for the function, as for a loader; the command reads headers alone and counts on."""
    side = 20_000
    header = side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    content = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0")) + _chunk(b"IEND", b"")
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(mc.ImageReadError, match="DecompressionBombError"):
        read_size(path)
    limit = Image.MAX_IMAGE_PIXELS
    result = CliRunner().invoke(app, ["count", "molmo2", str(path), "--json"])
    assert limit == Image.MAX_IMAGE_PIXELS
    (counted,) = json.loads(result.stdout)["images"]
    assert (counted["height"], counted["width"]) == (side, side)


# -- files that are no images --------------------------------------------------------------------------------------


def _not_images(folder):
    """(path, what the message says) of things that have no size."""
    whole = folder / "whole.png"
    _image().save(whole)
    contents = {
        "empty.png": b"",
        "text.jpg": b"These are words.\n" * 20,
        "header.png": whole.read_bytes()[:20],
        "header.jpg": b"\xff\xd8\xff\xe0",
        "random.webp": random.Random(3).randbytes(5000),
        "random.tif": random.Random(4).randbytes(5000),
        "zip.gif": b"PK\x03\x04" + bytes(100),
        "zero.png": b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", bytes(8) + b"\x08\x02\x00\x00\x00"),
        "sum.png": whole.read_bytes()[:16] + b"\xff" * 20 + whole.read_bytes()[36:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    return {
        **{folder / name: r"\w+" for name in contents},
        folder / "folder.png": "folder|Permission",
        folder / "missing.png": "no such file",
        folder / "missing" / "deep.png": "no such file",
    }


def test_no_image(tmp_path):
    for path, reason in _not_images(tmp_path).items():
        with pytest.raises(mc.ImageReadError, match=rf"^\[read_size\] {re.escape(str(path))}: .*({reason})"):
            read_size(path)
        with pytest.raises(OSError, match="read_size"):
            read_size(str(path), verify=True)


def test_no_image_among_images(tmp_path):
    bad = list(_not_images(tmp_path))
    good = tmp_path / "whole.png"
    paths = [path for pair in zip(bad, [good] * len(bad), strict=True) for path in pair]
    for workers in (1, 3):
        files = list(read_sizes(paths, workers=workers))
        assert [file.path for file in files] == [str(path) for path in paths]
        assert [file.size for file in files] == [None, (20, 44)] * len(bad)
        for file in files[::2]:
            assert file.error
            assert "\n" not in file.error
            assert "read_size" not in file.error
        assert all(file.error is None for file in files[1::2])


def test_name_does_not_matter(tmp_path):
    _image().save(tmp_path / "image.png")
    (tmp_path / "image.png").rename(tmp_path / "image.jpg")
    assert read_size(tmp_path / "image.jpg") == (20, 44)


# -- finding files -------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.png",
        "a.JPG",
        "notes.txt",
        "deep/c.webp",
        "deep/er/d.tiff",
        "deep/er/list.json",
        "folder.png/e.gif",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def _found(*arguments, on_skip=None):
    return [Path(path).as_posix() for path in find_images(arguments, on_skip=on_skip)]


def test_find_in_folders(tree):
    skipped = []
    everything = ["a.JPG", "b.png", "deep/c.webp", "deep/er/d.tiff", "folder.png/e.gif"]
    assert _found(".", on_skip=skipped.append) == everything
    assert [path.as_posix() for path in skipped] == ["deep/er/list.json", "notes.txt"]
    assert _found(".") == everything
    assert _found(str(tree)) == [(tree / name).as_posix() for name in everything]
    assert _found("deep", "b.png", "deep") == [
        "deep/c.webp",
        "deep/er/d.tiff",
        "b.png",
        "deep/c.webp",
        "deep/er/d.tiff",
    ]


def test_find_named_files(tree):
    skipped = []
    assert _found("notes.txt", "b.png", "missing.png", on_skip=skipped.append) == ["notes.txt", "b.png", "missing.png"]
    assert skipped == []


def test_find_by_pattern(tree):
    assert _found("*.png") == ["b.png", "folder.png/e.gif"]
    assert _found("**/*.webp") == ["deep/c.webp"]
    assert _found("deep/*") == ["deep/c.webp", "deep/er/d.tiff"]
    assert _found("[ab].*") == ["a.JPG", "b.png"]
    assert _found("*.nothing", "b.png") == ["*.nothing", "b.png"]


def test_find_a_name_that_looks_like_a_pattern(tree):
    (tree / "x[1].png").touch()
    (tree / "y[1]").mkdir()
    (tree / "y[1]" / "z.png").touch()
    assert _found("x[1].png", "y[1]") == ["x[1].png", "y[1]/z.png"]


def test_find_is_lazy_and_empty(tree):
    assert _found() == []
    (tree / "none").mkdir()
    assert _found("none") == []
    assert next(iter(find_images(["b.png", "missing"]))) == "b.png"


# -- many files ----------------------------------------------------------------------------------------------------

NUM_FILES = 10_000


@pytest.fixture
def dataset(tmp_path):
    """Small images of many sizes, one file in a hundred spoiled: (folder, sizes of the good, names of the bad)."""
    rng = random.Random(11)
    folder = tmp_path / "dataset"
    kinds = []
    for i in range(40):
        size = (rng.randint(1, 40), rng.randint(1, 40))
        path = tmp_path / ("kind.png" if i % 2 else "kind.jpg")
        Image.new("L", size, i).save(path)
        kinds.append((path.suffix, size[::-1], path.read_bytes()))
    spoil = [
        lambda content: b"",
        lambda content: content[: rng.randint(1, 12)],
        lambda content: rng.randbytes(len(content)),
        lambda content: b"<html>not found</html>",
    ]
    sizes, bad = {}, set()
    spoiled = set(rng.sample(range(NUM_FILES), NUM_FILES // 100))
    for i in range(NUM_FILES):
        suffix, size, content = kinds[i % len(kinds)]
        path = folder / f"{i // 500:02}" / f"{i:05}{'.jpeg' if i % 7 == 0 else suffix}"  # some under a wrong suffix
        path.parent.mkdir(parents=True, exist_ok=True)
        if i in spoiled:
            path.write_bytes(spoil[i % len(spoil)](content))
            bad.add(str(path))
        else:
            path.write_bytes(content)
            sizes[str(path)] = size
    return folder, sizes, bad


def test_a_dataset_is_counted_to_its_end(dataset, tmp_path, capsys, monkeypatch):
    folder, sizes, bad = dataset
    assert len(sizes) + len(bad) == NUM_FILES
    table = tmp_path / "counts.csv"
    monkeypatch.setattr(sys, "argv", ["maxcrops", "count", "molmo2-8b", str(folder), "--csv", str(table)])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 1
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["path"]: (int(row["height"]), int(row["width"])) for row in rows} == sizes
    assert [row["path"] for row in rows] == sorted(sizes)
    reported = dict(re.findall(r"^  (.+?\.\w+): (.+)$", err, re.MULTILINE))
    assert set(reported) == bad
    assert f"{len(bad)} files could not be read:" in err
    counts = mc.count_tokens(mc.get_spec("molmo2-8b"), [sizes[row["path"]] for row in rows])
    assert [int(row["sequence_tokens"]) for row in rows] == counts.tolist()
    assert f"{len(sizes)} images, {counts.sum()} sequence tokens" in out


def test_workers_keep_the_order(dataset):
    folder, sizes, bad = dataset
    paths = list(find_images([str(folder)]))
    random.Random(1).shuffle(paths)
    one = list(read_sizes(paths, workers=1))
    assert [file.path for file in one] == paths
    assert {file.path: file.size for file in one} == {**sizes, **dict.fromkeys(bad)}
    for workers in (2, 8):
        assert list(read_sizes(iter(paths), workers=workers)) == one


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_in_folders_are_passed_over(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    _image().save(tmp_path / "image.png")
    assert _found(str(tmp_path)) == [(tmp_path / "image.png").as_posix()]
