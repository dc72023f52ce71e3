"""The package imports and counts with nothing but its own few dependencies."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "transformers", "triton", "ray", "typer", "rich", "matplotlib", "pyarrow", "datasets")

# Names that may be imported: the standard library, the package, its dependencies and theirs.
ALLOWED = {
    "maxcrops", "_maxcrops_editable", "numpy", "PIL",
    "typer", "rich", "click", "shellingham", "markdown_it", "mdurl", "pygments", "typing_extensions",
    "annotated_doc", "annotated_types", "colorama", "pydantic", "pydantic_core", "typing_inspection",
}  # fmt: skip

BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        if not known and top not in {ALLOWED!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
        return None

sys.meta_path.insert(0, Blocker())
"""


def run(code: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_blocker_blocks(tmp_path: Path) -> None:
    code = BLOCKER + "\ntry:\n    import torch\nexcept ModuleNotFoundError as error:\n    print(error)\n"
    assert run(code, tmp_path) == "torch is blocked"


def test_everything_exact_works_without_optional_packages(tmp_path: Path) -> None:
    config = {"model_type": "molmo", "image_processor_type": "MolmoImageProcessor", "max_crops": 20}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    code = (
        BLOCKER
        + """
import maxcrops as mc

spec = mc.get_spec("molmo-7b-d")
assert mc.layout(spec, height=1080, width=1920).sequence_tokens == 1196
assert mc.count_tokens(spec, [(1080, 1920)], num_threads=2).tolist() == [1196]
assert mc.grids(spec, [(1080, 1920)]).tolist() == [[3, 4]]
assert mc.scales(spec, [(1080, 1920)]).shape == (1,)
assert mc.worst_case(spec).tokens == 1460
assert mc.largest_max_crops(spec, max_tokens=4096) == 37
assert mc.load_spec(".").max_crops == 20
assert len(mc.list_specs()) > 10
assert mc.rule_of_thumb()
print("fine")
"""
    )
    assert run(code, tmp_path) == "fine"


def test_command_line_works_without_optional_packages(tmp_path: Path) -> None:
    code = BLOCKER + "\nimport sys\nfrom maxcrops.cli import main\nsys.argv = ['maxcrops', 'specs']\nmain()\n"
    assert "molmo-7b-d" in run(code, tmp_path)


def test_import_loads_nothing_heavy(tmp_path: Path) -> None:
    modules = "maxcrops, maxcrops.preprocess, maxcrops.preprocess._triton, maxcrops.kernels"
    code = f"import sys, {modules}; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run(code, tmp_path) == "[]"


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_a_free_threaded_python_stays_one(tmp_path: Path) -> None:
    # An extension that does not say it can do without it turns the GIL on for the process.
    assert run("import sys, maxcrops.preprocess; print(sys._is_gil_enabled())", tmp_path) == "False"
