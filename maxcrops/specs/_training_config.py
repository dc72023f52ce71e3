"""Numbers and words from the YAML configuration of a training run, without a YAML library.

The core depends on NumPy and Pillow alone, and of a training configuration only plain settings are needed: integers,
booleans, words and lists of them in nested mappings, as OmegaConf and PyYAML write them in block style. What is
returned equals PyYAML's reading; what cannot be read that way is left out.
"""

from __future__ import annotations

import re
from typing import Any

_KEY = re.compile(r"(?P<key>[\w./-]+|'[^']*'|\"[^\"\\]*\"):(?:\s+(?P<value>.*))?$", re.ASCII)
_MARK = re.compile(r"(?:[!&][\w./:!-]*\s*)+$", re.ASCII)  # a tag or an anchor in front of a list or a mapping
_WORD = re.compile(r"[A-Za-z_/](?:[\w./+#-]|:(?=\S))*(?: (?:[\w./+-]|:(?=\S))+)*", re.ASCII)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9]\d*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?\d+\.\d*(?:[eE][-+]\d+)?", re.ASCII)
_NAMED = {"null": None, "true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


class _Unknown(ValueError):
    """A value that is left out."""


def read_settings(text: str) -> dict[str, Any]:
    """Dotted path -> scalar, or list of scalars, for every plain setting of a YAML text.

    >>> read_settings("model:\\n  max_crops: 12\\n  overlap_margins:\\n  - 4\\n  - 4\\n")
    {'model.max_crops': 12, 'model.overlap_margins': [4, 4]}
    """
    settings: dict[str, Any] = {}
    unknown: set[str] = set()
    open_keys: list[tuple[int, str]] = []  # (indent, key) of the mappings around the line
    skip_deeper: int | None = None  # lines deeper than this belong to something that is left out
    for line in text.splitlines():
        content = line.strip()
        if not content or content.startswith("#") or content in ("---", "...") or line.startswith("%"):
            continue
        indent = len(line) - len(line.lstrip(" "))
        in_list = content == "-" or content.startswith("- ")
        if skip_deeper is not None:
            if indent > skip_deeper or (indent == skip_deeper and in_list):
                continue
            skip_deeper = None
        while open_keys and (open_keys[-1][0] > indent or (open_keys[-1][0] == indent and not in_list)):
            open_keys.pop()
        path = ".".join(key for _, key in open_keys)
        match = _KEY.match(content)
        if in_list:
            try:
                settings.setdefault(path, []).append(_scalar(content[1:].strip()))
            except (_Unknown, AttributeError):  # an item that is no scalar, or items below a value
                unknown.add(path)
                skip_deeper = open_keys[-1][0] if open_keys else -1
        elif match is None or (path and path in settings):
            # A value that goes on over several lines.
            unknown.add(path)
        else:
            key = match["key"].strip("'\"")
            open_keys.append((indent, key))
            path = ".".join(key for _, key in open_keys)
            value = (
                _MARK.sub("", match["value"] or "", count=1) if _MARK.match(match["value"] or "") else match["value"]
            )
            value = "" if value is None or value.startswith("#") else value
            if value:
                try:
                    settings[path] = _value(value)
                except _Unknown:
                    unknown.add(path)
                    skip_deeper = indent
    return {
        path: value
        for path, value in settings.items()
        if path and not any(path == left or path.startswith(f"{left}.") for left in unknown)
    }


def _value(text: str) -> Any:
    flow = re.fullmatch(r"\[([^\[\]{}'\"]*)\]\s*(?:#.*)?", text)
    if flow:
        inner = flow[1].strip()
        return [_scalar(item.strip()) for item in inner.split(",")] if inner else []
    return _scalar(text)


def _scalar(text: str) -> Any:
    quoted = re.fullmatch(r"'([^']*)'\s*(?:\s#.*)?|\"([^\"\\]*)\"\s*(?:\s#.*)?", text)
    if quoted:
        return quoted[1] if quoted[1] is not None else quoted[2]
    text = re.split(r"\s#", text, maxsplit=1)[0].strip()
    if text == "~":
        return None
    if text in (text.lower(), text.upper(), text.capitalize()) and text.lower() in _NAMED:
        return _NAMED[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _WORD.fullmatch(text):
        return text
    raise _Unknown(text)
