"""The command line: parses, calls one public function, formats. It computes no number."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of ``maxcrops``; errors of maxcrops are one line and exit status 2."""
    from maxcrops.cli._app import app
    from maxcrops.exceptions import MaxCropsError

    try:
        app()
    except BrokenPipeError:  # a reader such as head has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is written when Python ends
        raise SystemExit(1) from None
    except (MaxCropsError, ValueError, TypeError, OSError, ImportError) as error:
        print(f"maxcrops: {error}", file=sys.stderr)
        raise SystemExit(2) from None
