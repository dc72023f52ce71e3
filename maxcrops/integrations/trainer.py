"""The guard inside transformers' Trainer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from maxcrops.data.guard import Guard, memory_report

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["guard_callback"]

_logger = logging.getLogger(__name__)


def guard_callback(guard: Guard) -> TrainerCallback:
    """A callback that puts the guard around the training loader's collate function, and logs GPU memory with metrics.

    A callback is not shown the batch, so that the check runs where the batch is made, in the loader's workers if it
    has some. When training ends, the loader has its own collate function again. Evaluation is not covered: give the
    Trainer ``data_collator=maxcrops.guard(collator, ...)`` for both.

    Trainer removes the columns that the model does not take, and with them sizes and names of the samples, unless
    ``remove_unused_columns=False``; then the processor's own outputs are all the evidence.

    Args:
        guard: its own collate function is not used.
    """
    from transformers import TrainerCallback

    class GuardCallback(TrainerCallback):
        def __init__(self) -> None:
            self._loader: Any = None
            self._collate: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            loader: Any = kwargs.get("train_dataloader")
            while hasattr(loader, "base_dataloader"):  # accelerate's wrappers
                loader = loader.base_dataloader
            if not hasattr(loader, "collate_fn"):
                raise TypeError(f"[guard] the training loader must have a collate_fn, got {type(loader).__name__}")
            if isinstance(loader.collate_fn, Guard):
                return
            self._loader, self._collate = loader, loader.collate_fn
            loader.collate_fn = guard.around(self._collate)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._loader is not None:
                self._loader.collate_fn = self._collate
                self._loader = self._collate = None

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if report := memory_report():
                _logger.info("step %d%s", state.global_step, report)

    return GuardCallback()
