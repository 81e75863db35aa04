"""Several processes that train together."""

from __future__ import annotations

import atexit

import torch
from transformers import TrainingArguments


def leave_group_at_exit(arguments: TrainingArguments) -> None:
    """Leave the group of processes, if there are several, at the end of the program.

    The library joins the group when it makes the arguments, and asks for this.
    """
    if arguments.world_size > 1:
        atexit.register(_leave_group)


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
