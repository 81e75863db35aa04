"""Language models: loading, chats, batches, the scoring engine, small trainings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaConfig


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

    def llama(self, tokenizer: Any, **more: Any) -> LlamaConfig:
        """Return the configuration of a small Llama with the tokenizer's vocabulary."""
        from transformers import LlamaConfig  # takes seconds, and profiles need the sizes alone

        chosen = {
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "initializer_range": self.hidden**-0.5,  # 0.02 is for wide models, and stalls here
            **more,
        }
        return LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=self.hidden, intermediate_size=2 * self.hidden,
            num_hidden_layers=self.layers, num_attention_heads=self.heads,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, **chosen,
        )


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
