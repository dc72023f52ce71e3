"""Every registered family is complete: checked against something, documented, drawn, bounded, recognised."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
from cases import all_cases
from PIL import Image
from test_bounds import SPECS as BOUNDED
from typer.testing import CliRunner

import maxcrops as mc
from maxcrops import specs as registry
from maxcrops.cli._app import app
from maxcrops.specs import FAMILIES, Family, loading

TESTS = Path(__file__).parent
README = (TESTS.parent / "README.md").read_text(encoding="utf-8")

CASED = {case.spec.family for case in all_cases()}

CHECKED_APART = {"molmo": "test_molmo_v1.py"}
"""Families that have a test module of their own instead of cases."""
BESIDE = {"minicpmv2_6": {"version": 2.6}}
"""What a family's config.json must state beside its name."""

Check = Callable[[Family, Path], bool]


def has_a_case(family: Family, _: Path) -> bool:
    apart = CHECKED_APART.get(family.spec.key)
    return (TESTS / apart).exists() if apart else family.spec.key in CASED


def has_dated_sources(family: Family, _: Path) -> bool:
    """Everything but a checkpoint's settings was compared at some date."""

    def is_date(text: str) -> bool:
        try:
            return date.fromisoformat(text.partition(", ")[0]) <= date.today()
        except ValueError:
            return False

    sources = [source for spec in family.specs().values() for source in spec.sources]
    dated = [is_date(source.checked) for source in sources]
    told = [bool(source.unverified) and source.what == "published settings" for source in sources]
    return bool(family.spec.sources) and all(a or b for a, b in zip(dated, told, strict=True))


def has_a_row_in_the_readme(family: Family, _: Path) -> bool:
    keys = ", ".join(f"`{key}`" for key in family.specs())
    return re.search(rf"^\| {re.escape(keys)} \| ", README, re.MULTILINE) is not None


def is_drawn_on_the_sheet(family: Family, folder: Path) -> bool:
    drawn = []

    def note(layout: mc.Layout, image: Image.Image, *, spec: mc.Spec, longest_side: int) -> Image.Image:
        drawn.append(spec.key)
        return Image.new("RGB", (1, 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maxcrops.drawing.draw_layout", note)
        assert CliRunner().invoke(app, ["specs", "--sheet", str(folder / "sheet.png")]).exit_code == 0
    return family.spec.key in drawn


def has_a_bound_tested(family: Family, _: Path) -> bool:
    def rules(spec: mc.Spec) -> tuple[object, ...]:
        return spec.grid, spec.crop, spec.tokens

    tested = [rules(spec) for spec in BOUNDED.values()]
    return all(rules(spec) in tested for spec in family.specs().values())


def is_recognised(family: Family, folder: Path) -> bool:
    """By each name alone that its folders have."""
    names = [("processor_config.json", "processor_class", name) for name in family.processor_classes]
    names += [("config.json", "model_type", name) for name in family.model_types]
    names += [("preprocessor_config.json", "image_processor_type", name) for name in family.image_processor_types]
    if not family.processor_classes and not family.model_types:
        return False
    for at, (file, key, name) in enumerate(names):
        contents = {"config.json": BESIDE.get(family.spec.key, {})}
        contents[file] = {**contents.get(file, {}), key: name}
        (folder / str(at)).mkdir()
        for written, values in contents.items():
            (folder / str(at) / written).write_text(json.dumps(values), encoding="utf-8")
        if mc.load_spec(folder / str(at)).family != family.spec.key:
            return False
    return True


def is_told_with_its_caveats(family: Family, _: Path) -> bool:
    """maxcrops specs KEY says what is odd and what nobody compared."""
    for key, spec in family.specs().items():
        told = CliRunner().invoke(app, ["specs", key]).output
        unverified = [source.unverified for source in spec.sources if source.unverified]
        if not spec.caveats or any(caveat not in told for caveat in spec.caveats):
            return False
        if bool(unverified) != bool(spec.unverified) or not all(map(spec.has_setting, spec.unverified)):
            return False
        if any(not re.search(rf"^unverified .*{re.escape(why)}$", told, re.MULTILINE) for why in unverified):
            return False
    return True


CHECKS: tuple[Check, ...] = (
    has_a_case,
    has_dated_sources,
    has_a_row_in_the_readme,
    is_drawn_on_the_sheet,
    has_a_bound_tested,
    is_recognised,
    is_told_with_its_caveats,
)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.spec.key)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_complete(check: Check, family: Family, tmp_path: Path) -> None:
    assert check(family, tmp_path)


# -- the checks notice what is missing ---------------------------------------------------------------------------------


@contextmanager
def registered(family: Family) -> Iterator[None]:
    """The family beside the known ones, as far as names and recognition go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "FAMILIES", (*FAMILIES, family))
        patch.setattr(loading, "FAMILIES", (*FAMILIES, family))
        registry._registry.cache_clear()
        registry._by_name.cache_clear()
        try:
            yield
        finally:
            patch.undo()
            registry._registry.cache_clear()
            registry._by_name.cache_clear()


def fake() -> Family:
    """A family with a name and numbers, and nothing else."""
    known = mc.get_spec("internvl", max_crops=11)
    return Family(spec=dataclasses.replace(known, key="fake", family="fake", sources=(), caveats=()))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_family_with_nothing_fails_every_check(check: Check, tmp_path: Path) -> None:
    with registered(fake()):
        assert mc.get_spec("fake").max_crops == 11
        assert not check(fake(), tmp_path)


def test_a_family_that_another_one_hides_is_not_recognised(tmp_path: Path) -> None:
    family = dataclasses.replace(fake(), processor_classes=("InternVLProcessor",))
    with registered(family):
        assert not is_recognised(family, tmp_path)


@pytest.mark.parametrize("checked", ["", "soon", "2999-01-01", "unverified: from memory"])
def test_a_source_needs_a_date(checked: str, tmp_path: Path) -> None:
    source = mc.specs.Source("cutting", "somewhere", checked)
    family = dataclasses.replace(fake(), spec=dataclasses.replace(fake().spec, sources=(source,)))
    assert not has_dated_sources(family, tmp_path)


def test_unverified_settings_are_some(tmp_path: Path) -> None:
    """There is something for the last check to find."""
    told = CliRunner().invoke(app, ["specs", "gemma-3-4b-it"]).output
    assert "unverified published settings: crops of 896 px in patches of 14 are from memory" in told
    assert "unverified" not in CliRunner().invoke(app, ["specs", "molmo-7b-d"]).output


@pytest.mark.filterwarnings("error")
def test_unverified_settings_are_not_taken_silently() -> None:
    """A warning names them, until the caller gives them; a plan says which it rests on."""
    with pytest.warns(mc.UnverifiedSettingsWarning, match=r"crop_size, patch_size are unverified .* are from memory"):
        spec = mc.get_spec("google/gemma-3-12b-it")
    assert repr(mc.plan(spec)).endswith("; unverified crop_size, patch_size)")
    with pytest.warns(mc.UnverifiedSettingsWarning, match="patch_size is unverified"):
        assert mc.get_spec("gemma-3-4b-it", size=896).unverified == ("patch_size",)
    with pytest.warns(mc.UnverifiedSettingsWarning, match="crop_to_patches is unverified"):
        mc.get_spec("ovis2-2b", crop_size=448, max_patches=9)
    known = mc.get_spec("gemma-3-4b-it", crop_size=896, patch_size=14)
    assert known.unverified == spec.replace(crop=spec.crop).unverified == ()
    assert "unverified" not in repr(mc.plan(known))
    assert mc.get_spec("gemma3").unverified == mc.get_spec("molmo-7b-d").unverified == ()
