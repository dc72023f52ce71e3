"""Numbers and words from the YAML configuration of a training run, without a YAML library.

The core depends on NumPy and Pillow alone, and of a training configuration only plain settings are needed: scalars and
lists of scalars in nested mappings. This reads those from block style (as OmegaConf and PyYAML write it), and passes
over what it does not know. Its oracle in the tests is PyYAML.
"""

from __future__ import annotations

import re
from typing import Any

_LINE = re.compile(r"^(?P<indent> *)(?P<dashes>(?:- +)*)(?:(?P<key>[^\s:#][^:]*?): *(?P<value>.*)|(?P<item>.*))$")


def read_settings(text: str) -> dict[str, Any]:
    """Dotted path -> scalar, or list of scalars, for every plain setting of a YAML text.

    Settings inside lists of mappings are left out: they belong to one of several things.

    >>> read_settings("model:\\n  max_crops: 12\\n  overlap_margins:\\n  - 4\\n  - 4\\n")
    {'model.max_crops': 12, 'model.overlap_margins': [4, 4]}
    """
    settings: dict[str, Any] = {}
    open_keys: list[tuple[int, str]] = []  # (indent, key) of the mappings around the line
    list_indent: int | None = None  # inside a list of mappings: its indent
    for raw in text.splitlines():
        line = _without_comment(raw)
        match = _LINE.match(line)
        if not line.strip() or line.lstrip().startswith(("---", "...", "%")) or match is None:
            continue
        indent = len(match["indent"])
        if list_indent is not None:
            if indent > list_indent or (indent == list_indent and match["dashes"]):
                continue
            list_indent = None
        if match["dashes"]:
            # Lists may stand at the indent of their key.
            while open_keys and open_keys[-1][0] > indent:
                open_keys.pop()
            path = ".".join(key for _, key in open_keys)
            if match["key"] is not None:
                list_indent = indent
                settings.pop(path, None)
            elif path:
                settings.setdefault(path, []).append(_scalar(match["item"]))
            continue
        while open_keys and open_keys[-1][0] >= indent:
            open_keys.pop()
        if match["key"] is None:
            continue
        open_keys.append((indent, match["key"].strip("'\"")))
        if match["value"]:
            settings[".".join(key for _, key in open_keys)] = _value(match["value"])
    return settings


def _without_comment(line: str) -> str:
    if line.lstrip().startswith("#"):
        return ""
    quoted = re.match(r"^[^'\"#]*$", line.split(" #")[0])
    return (line.split(" #")[0] if quoted else line).rstrip()


def _value(text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        inner = text[1:-1].strip()
        return [_scalar(item) for item in inner.split(",")] if inner else []
    return _scalar(text)


def _scalar(text: str) -> Any:
    text = text.strip()
    if text.lower() in ("null", "~", ""):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
