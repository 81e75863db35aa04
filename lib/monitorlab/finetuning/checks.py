"""What can be wrong with a training before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monitorlab.finetuning.examples import Example
from monitorlab.finetuning.recipe import Recipe
from monitorlab.monitors.causal_loading import Checkpoint
from monitorlab.monitors.monitor import MonitorError
from monitorlab.pipeline.files import canonical_json


def check_examples(base: Checkpoint, examples: Sequence[Example], recipe: Recipe) -> int:
    """Return the length of the longest example, in tokens.

    Raises
    ------
    MonitorError
        There are none, they do not fit the model or the recipe, or the tokenizer cannot pad.
    """
    if not examples:
        raise MonitorError("no examples to learn from: expected at least one")
    if base.tokenizer.pad_token_id is None:
        raise MonitorError("the tokenizer has no padding token: set tokenizer.pad_token to one of "
                           "its special tokens")
    longest = max(len(example["input_ids"]) for example in examples)
    positions = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    for name, most in (("max_tokens", recipe.max_tokens), ("the model's positions", positions)):
        if most is not None and longest > most:
            raise MonitorError(f"the longest example has {longest} tokens, more than {name} "
                               f"({most}): leave out what is longer")
    embeddings: Any = base.model.get_input_embeddings()
    size = embeddings.weight.shape[0]
    if (highest := max(max(example["input_ids"]) for example in examples)) >= size:
        raise MonitorError(f"the examples have the token {highest}, the model knows {size}: make "
                           "the examples with the tokenizer of the base")
    if recipe.pair_weight:
        sides = [{example["pair"] for example in examples if example["label"] == label} - {-1}
                 for label in (1, 0)]
        if not sides[0] & sides[1]:
            raise MonitorError("pair_weight is above 0, but no two examples of both labels have "
                               "the same pair: give pair_id to the samples, or pair_weight 0")
    return longest


def checked_provenance(provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the provenance; that it is no JSON is found before the training, not after it."""
    facts = dict(provenance or {})
    try:
        canonical_json(facts)
    except (TypeError, ValueError) as error:
        raise MonitorError(f"the provenance is not JSON: {error}") from None
    return facts
