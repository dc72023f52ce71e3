"""The Layout of one image: a documented face of the core."""

from __future__ import annotations

from maxcrops import _core
from maxcrops._arguments import require_arguments
from maxcrops.specs import Spec


def layout(spec: Spec, *, height: int, width: int, max_crops: int | None = None) -> _core.Layout:
    """What happens to one image: its grid, canvas, views and crop order, and what it costs.

    Args:
        spec: from ``get_spec`` or ``load_spec``.
        height: of the image, pixels, 1 to 2^31 - 1.
        width: of the image, pixels.
        max_crops: sets the model's own knob, whatever its name, in local crops; the spec's setting where None.

    Returns:
        A Layout. Its three costs are separate counts: ``sequence_tokens`` fill the language model's sequence,
        ``connector_outputs`` are what the adapter computes, ``vit_patches`` what the vision encoder does.

    Raises:
        ValueError: a side or a max_crops out of range; the message names it.
        TypeError: something else than integers.

    >>> from maxcrops import get_spec
    >>> image = layout(get_spec("molmo-7b-d"), height=1080, width=1920)
    >>> image.grid, image.num_crops, image.sequence_tokens
    ((3, 4), 13, 1196)
    """
    if type(height) is bool or type(width) is bool or type(max_crops) is bool:  # the binding takes them for 0 and 1
        require_arguments("layout", spec, height=height, width=width, max_crops=max_crops)
    try:
        return _core.layout(spec._core, height, width, max_crops)
    except (TypeError, AttributeError):
        require_arguments("layout", spec, height=height, width=width, max_crops=max_crops)
        raise
