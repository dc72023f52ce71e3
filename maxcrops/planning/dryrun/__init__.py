"""The dry run: a real model on weights without memory, and what it would use on a GPU."""

from maxcrops.planning.dryrun._configs import get_config, list_configs
from maxcrops.planning.dryrun._dry_run import NOT_VALIDATED, DryRun, DryRuns, LargestBatch, dry_run
from maxcrops.planning.dryrun._launch import Launch

__all__ = ["NOT_VALIDATED", "DryRun", "DryRuns", "LargestBatch", "Launch", "dry_run", "get_config", "list_configs"]
