"""Causal language models for monitors: loading, with quantization or an adapter, and identity."""

from __future__ import annotations

import hashlib
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
from monitorlab.pipeline.digests import digest_folder
from monitorlab.pipeline.files import canonical_json
from monitorlab.signals.scorers import (
    ScorerError,
    from_checkpoint,
    load_model,
    load_tokenizer,
    no_progress_bars,
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
        quantization, adapter, digest of the chat template. No path of this machine.
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
        The model or its tokenizer cannot be found, or the number format is unknown.
    MonitorError
        The quantization is not possible here, or the adapter does not fit the model.
    """
    tokenizer = load_tokenizer(name, revision)
    loader = AutoModelForCausalLM.from_pretrained
    if quantization:
        options = _quantized(quantization, dtype, device)
        model: PreTrainedModel = from_checkpoint(loader, name, revision, **options).eval()
    else:
        model = load_model(loader, name, revision, dtype, device)
    identity = {
        "model": model_identity(name, revision),
        "dtype": dtype,
        "quantization": quantization,
        "adapter": model_identity(adapter, adapter_revision) if adapter else None,
        "chat_template": digest_json(tokenizer.chat_template),
    }
    if adapter:
        model = with_adapter(model, adapter, adapter_revision, merge=not quantization
                             and model.dtype == torch.float32)
    return Checkpoint(model, tokenizer, identity)


def digest_json(value: Any) -> str:
    """SHA-256 of a value as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


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
    from peft import PeftModel  # takes a second, and few need it
    from peft.utils import get_peft_model_state_dict, load_peft_weights

    def load(name: str, **options: Any) -> tuple[Any, set[str]]:
        adapted = PeftModel.from_pretrained(model, name, **options)
        return adapted, set(load_peft_weights(name, device="cpu", **options))

    try:
        with warnings.catch_warnings():
            # Missing weights are an error below; and PEFT asks the hub for the base, at hand here.
            warnings.simplefilter("ignore")
            adapted, saved = from_checkpoint(load, name, revision)
            expected = {key for key in get_peft_model_state_dict(adapted) if "lora_" in key}
    except ScorerError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise MonitorError(f"the adapter {name!r} does not load on this model: {reason} Give the "
                           "model that it was trained on.") from error
    if wrong := expected ^ {key for key in saved if "lora_" in key}:
        raise MonitorError(f"the adapter {name!r} and the model have {len(wrong)} weights not in "
                           f"common, such as {min(wrong)}: give the model that it was trained on")
    if merge:
        with no_progress_bars():
            adapted = adapted.merge_and_unload()
    return adapted.eval()
