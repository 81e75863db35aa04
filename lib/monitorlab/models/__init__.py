"""Language models: loading, chats, batches, the scoring engine, small trainings."""

from __future__ import annotations

from dataclasses import dataclass


class ModelError(ValueError):
    """A checkpoint, or its tokenizer, cannot be loaded or asked; the message says what to do."""


@dataclass(frozen=True)
class ModelSize:
    """Shape of one small transformer.

    Attributes
    ----------
    hidden : int
        Width of the residual stream, in units; a multiple of `heads`.
    layers : int
        Number of transformer blocks.
    heads : int
        Attention heads per block.
    """

    hidden: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Training:
    """One model and how long it is trained.

    Attributes
    ----------
    model : ModelSize
        Shape of the model.
    steps : int
        Optimizer steps.
    batch_tokens : int
        Tokens in one optimizer step, padding included.
    learning_rate : float
        Peak learning rate of AdamW.
    """

    model: ModelSize
    steps: int
    batch_tokens: int
    learning_rate: float
