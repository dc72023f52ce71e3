"""The command line: parses, calls one public function, formats. It computes no number."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Entry point of ``maxcrops``; errors of maxcrops are one line and exit status 2."""
    from maxcrops.cli._app import app
    from maxcrops.exceptions import MaxCropsError

    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end in silence when a reader such as head has enough
    try:
        app()
    except (MaxCropsError, ValueError, TypeError, OSError, ImportError) as error:
        print(f"maxcrops: {error}", file=sys.stderr)
        raise SystemExit(2) from None
