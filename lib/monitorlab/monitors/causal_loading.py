"""Causal language models for monitors: loading, with quantization or an adapter, and identity."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from monitorlab.monitors.monitor import MonitorError
from monitorlab.pipeline.files import digest_folder, digest_json
from monitorlab.signals.chats import chat_form
from monitorlab.signals.scorers import (
    ScorerError,
    from_checkpoint,
    load_model,
    load_tokenizer,
    no_progress_bars,
    refuse_adapter,
    whole_model,
)

QUANTIZATIONS = ("", "int8", "nf4")


@dataclass(frozen=True)
class Checkpoint:
    """A model ready to be asked.

    Attributes
    ----------
    model : PreTrainedModel
        In evaluation mode, on its device.
    tokenizer : PreTrainedTokenizerBase
    identity : mapping
        What decides its answers, as JSON: name, revision or digest of the folder, number format,
        quantization, adapter, digest of the chat template and what else decides a prompt (see
        `monitorlab.signals.chats`). No path of this machine.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: Mapping[str, Any]


def load_causal(
    name: str,
    revision: str = "",
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quantization: str = "",
    adapter: str = "",
    adapter_revision: str = "",
) -> Checkpoint:
    """Load a causal language model, quantized or with a LoRA adapter if asked.

    Parameters
    ----------
    name, adapter : str
        Local folder, or name on the hub; no adapter if empty.
    revision, adapter_revision : str
        Commit, tag or branch on the hub; must be given for a hub name.
    dtype : str
        "float32", "bfloat16" or "float16"; with quantization, the format that it computes in.
    device : str
        A torch device.
    quantization : str
        Empty, "int8" or "nf4"; both need bitsandbytes and a CUDA device.

    Raises
    ------
    ScorerError
        The model or its tokenizer cannot be found, its weights are not those of a whole causal
        language model, its chat template renders no user message, or the number format is unknown.
    MonitorError
        The quantization is not possible here, or the adapter does not fit the model.
    """
    refuse_adapter(name)
    tokenizer = load_tokenizer(name, revision)
    loader = AutoModelForCausalLM.from_pretrained
    if quantization:
        options = _quantized(quantization, dtype, device)
        model: PreTrainedModel = whole_model(loader, name, revision, **options).eval()
    else:
        model = load_model(loader, name, revision, dtype, device)
    identity = {
        "model": model_identity(name, revision),
        "dtype": dtype,
        "quantization": quantization,
        "adapter": model_identity(adapter, adapter_revision) if adapter else None,
        "chat_template": digest_json(tokenizer.chat_template),
        **chat_form(tokenizer).settings(),
    }
    if adapter:
        model = with_adapter(model, adapter, adapter_revision, merge=not quantization
                             and model.dtype == torch.float32)
    return Checkpoint(model, tokenizer, identity)


def model_identity(name: str, revision: str) -> dict[str, str]:
    """Name and revision; for a folder its own name and the digest of what is in it."""
    if Path(name).is_dir():
        return {"name": Path(name).resolve().name, "sha256": digest_json(digest_folder(Path(name)))}
    return {"name": name, "revision": revision}


def _quantized(quantization: str, dtype: str, device: str) -> dict[str, Any]:
    """Options of `from_pretrained` for a quantized model."""
    if quantization not in QUANTIZATIONS:
        raise MonitorError(f"unknown quantization {quantization!r}: expected one of "
                           f"{', '.join(map(repr, QUANTIZATIONS))}")
    if torch.device(device).type == "cpu":
        raise MonitorError(f"quantization {quantization!r} needs a CUDA device, found "
                           f"{device!r}: leave the quantization out, or give device=\"cuda\"")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MonitorError(f"quantization {quantization!r} needs bitsandbytes, which is not "
                           "installed: pip install bitsandbytes")
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ScorerError(f"unknown dtype {dtype!r}: expected float32, bfloat16 or float16")
    config = BitsAndBytesConfig(load_in_8bit=True) if quantization == "int8" else (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                           bnb_4bit_compute_dtype=kind)
    )
    return {"quantization_config": config, "device_map": {"": device}, "dtype": kind}


def with_adapter(
    model: PreTrainedModel, name: str, revision: str = "", *, merge: bool
) -> PreTrainedModel:
    """Put a LoRA adapter on a model.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    name, revision : str
        Of the adapter: a local folder, or a name on the hub and a commit, tag or branch there.
    merge : bool
        Add it to the weights, which is faster. In lower precision than single the sum would be
        rounded: there it should stay beside them, as it was trained.

    Raises
    ------
    ScorerError
        The adapter cannot be found.
    MonitorError
        It does not fit the model.
    """
    from peft import PeftConfig, PeftModel  # takes a second, and few need it
    from peft.utils import get_peft_model_state_dict, load_peft_weights

    def read(name: str, **options: Any) -> tuple[Any, set[str], dict[str, Any]]:
        config = PeftConfig.from_pretrained(name, **options)
        if Path(name).is_dir() and not any(Path(name).glob("adapter_model.*")):
            raise ScorerError(f"{name!r} has no adapter_model.safetensors: copy or save the "
                              "adapter again")
        return config, set(load_peft_weights(name, device="cpu", **options)), options

    refusal = f"the adapter {name!r} does not fit this model: {{}} Give the model that it was " \
              "trained on."
    with warnings.catch_warnings(), no_progress_bars():
        # What PEFT warns of is an error below; and it asks the hub for the base, at hand here.
        warnings.simplefilter("ignore")
        config, saved, options = from_checkpoint(read, name, revision)
        if config.is_prompt_learning:
            raise MonitorError(f"the adapter {name!r} is of the kind {config.peft_type.value}, "
                               "which puts learned tokens before the prompt: expected LoRA")
        adapted: Any
        try:
            adapted = PeftModel.from_pretrained(model, name, config=config, **options)
            expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a wrong base may make PEFT raise anything
            raise MonitorError(refusal.format(" ".join(str(error).split())[:200])) from error
        # It also saves embeddings that it was trained beside, under their names in the model.
        surplus = saved - expected - set(adapted.state_dict())
        if wrong := (expected - saved) | surplus:
            raise MonitorError(refusal.format(f"weights that are not in both: {len(wrong)}, such "
                                              f"as {min(wrong)}."))
        if merge:
            _untie(adapted)
            adapted = adapted.merge_and_unload()
    return adapted.eval()


def _untie(adapted: Any) -> None:
    """Give the output layer weights of its own if an adapter is to be added to only one end.

    Where input and output share their weights, adding it to one end would change the other too.
    """
    model = adapted.get_base_model()
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    if not any(hasattr(end, "base_layer") for end in ends):
        return
    first, last = (getattr(end, "base_layer", end) for end in ends)
    if last is not None and first.weight is last.weight:
        last.weight = torch.nn.Parameter(last.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
