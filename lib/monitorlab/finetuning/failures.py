"""What goes wrong in a long training, in words that say what to do."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from monitorlab.finetuning.recipe import Recipe
from monitorlab.monitors.monitor import MonitorError

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
FULL = (errno.ENOSPC, errno.EDQUOT)
# How libraries report it that do not raise OSError: PyTorch's zip writer, and safetensors.
WRITING = ("failed writing file", "No space left on device", "os error 28")
ALLOCATING = ("DefaultCPUAllocator", "CUDA out of memory")


@contextmanager
def explained(
    recipe: Recipe, longest: int, folder: Path, *, cut: bool = False
) -> Iterator[None]:
    """Turn memory and disk errors inside the block into `MonitorError`.

    Parameters
    ----------
    recipe : Recipe
        Its values are the ones that the message proposes to change.
    longest : int
        Tokens of the longest example.
    folder : Path
        Where results go.
    cut : bool
        Whether what is longer than `max_tokens` is shortened, not refused.
    """
    try:
        yield
    except (RuntimeError, OSError, MemoryError) as error:
        text = str(error)
        if _is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold the tensors that fill it
            raise MonitorError(out_of_memory(recipe, longest, cut=cut)) from None
        number = error.errno if isinstance(error, OSError) else None
        if number in READ_ONLY:
            raise MonitorError(unwritable(folder, error)) from error
        if number in FULL or any(sign in text for sign in WRITING):
            raise MonitorError(full_disk(folder)) from error
        raise
    except Exception as error:
        if type(error).__name__ == "SafetensorError" and any(s in str(error) for s in WRITING):
            raise MonitorError(full_disk(folder)) from error
        raise


def _is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is about memory, which on the CPU only its text tells."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in ALLOCATING)


def out_of_memory(recipe: Recipe, longest: int, *, cut: bool = False) -> str:
    """Say which settings of a recipe need less memory, with values; the gentlest first."""
    less = []
    if not recipe.gradient_checkpointing:
        less.append("gradient_checkpointing=True (the same result, about a third slower)")
    if recipe.batch > (2 if recipe.pair_weight else 1):
        half = recipe.batch // 2
        less.append(f"batch {recipe.batch} -> {half} with accumulation {recipe.accumulation} -> "
                    f"{recipe.accumulation * -(-recipe.batch // half)} (as many examples a step)")
    if recipe.dtype == "float32":
        less.append('dtype="bfloat16"')
    if not recipe.lora_rank:
        less.append("lora_rank 0 -> 16 (an adapter instead of all weights)")
    shorter = min(recipe.max_tokens, longest) // 2
    if shorter:
        what = ("more of the long texts is cut out" if cut else "without the examples that are "
                f"longer: the longest has {longest} tokens")
        less.append(f"max_tokens {recipe.max_tokens} -> {shorter} ({what})")
    return ("the training does not fit into memory. Change one of these in the recipe, the first "
            f"ones first: {'; '.join(less)}. Or take a smaller model.")


def full_disk(folder: Path) -> str:
    """Say what to do when the disk is full."""
    return (f"the disk is full: {folder.name!r} was not written, and what was there before is "
            "untouched. Free some space and start again with the same settings: the training goes "
            "on from its last checkpoint")


def unwritable(folder: Path, error: Exception) -> str:
    """Say what to do when a folder cannot be written."""
    return (f"cannot write to {folder} ({error}): give a folder that may be "
            "written")
