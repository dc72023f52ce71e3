"""The errors of maxcrops.

    MaxCropsError
    +-- UnknownSpecError (KeyError)        no model of that name, or no known model in that folder
    +-- ConfigError (ValueError)           a model folder whose files contradict themselves or the family
    +-- BudgetTooSmallError (ValueError)   not even the smallest max_crops fits
    +-- UnboundedError (ValueError)        a cost that grows with the image: it has a worst case only within a limit
    +-- ImageReadError (OSError)           a file that is missing, broken, or gives no size
    +-- UnsupportedError (ValueError)      a model, processor or setting that is known and cannot be handled
    +-- TruncatedImageError (ValueError)   a batch in which image tokens or crops are missing
    +-- DryRunError (RuntimeError)         a dry run that crashed, ran out of memory or of time

UnverifiedSettingsWarning (UserWarning) is the only warning: a known model's settings that nobody compared.

Arguments that are wrong by themselves (a size of 0, an array of floats) raise plain ValueError or TypeError.
"""

from __future__ import annotations

from dataclasses import dataclass


class MaxCropsError(Exception):
    """Base of every error that maxcrops defines."""


class UnknownSpecError(MaxCropsError, KeyError):
    """No spec of that name is known, or a folder holds no model that is."""

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0]) if self.args else ""


class ConfigError(MaxCropsError, ValueError):
    """A model folder's files cannot be read, or say something that the family does not allow."""


class BudgetTooSmallError(MaxCropsError, ValueError):
    """Not even the smallest max_crops stays within the budget."""


class UnboundedError(MaxCropsError, ValueError):
    """A cost that grows with the image's size or ratio has no worst case; the message says why and what limits it."""


class ImageReadError(MaxCropsError, OSError):
    """An image file that is missing or broken, or whose header gives no size."""


class UnsupportedError(MaxCropsError, ValueError):
    """A model, processor, setting or image that cannot be handled as asked; the message names it and the fix."""


@dataclass(frozen=True)
class TruncatedRow:
    """A row of a batch that lacks something of its images."""

    row: int
    """Its index in the batch."""
    sample: str | None
    """What the sample is called, where it says."""
    found: int
    expected: int
    """Image tokens, or crops, or rows of an index, as ``what`` says."""
    what: str
    fix: str

    def __str__(self) -> str:
        name = f" ({self.sample})" if self.sample else ""
        return f"row {self.row}{name} {self.what}; {self.fix}"


class TruncatedImageError(MaxCropsError, ValueError):
    """A batch in which image tokens or crops are missing; the message names the rows, what they lack and the fix.

    A worker of a torch ``DataLoader`` hands on the message alone, so that ``rows`` is empty there.
    """

    def __init__(self, message: str, *, rows: tuple[TruncatedRow, ...] = ()) -> None:
        super().__init__(message)
        self.rows = rows


class DryRunError(MaxCropsError, RuntimeError):
    """A dry run that failed by itself: it crashed, ran out of memory or of time, or the model raised an error."""


class UnverifiedSettingsWarning(UserWarning):
    """Settings of a published checkpoint are from memory or taken to be like others'; the message names them."""
