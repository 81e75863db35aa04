"""Causal language models for monitors: loading, with quantization or an adapter, and identity."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging
from xxhash import xxh3_128

from monitorlab.models import ModelError
from monitorlab.models.chat import ChatTemplate
from monitorlab.storage.files import (
    DamagedFileError,
    digest_file,
    digest_folder,
    digest_json,
    read_sealed,
    sealed_json,
)

QUANTIZATIONS = ("", "int8", "nf4")
HELP = (
    "Give a local folder, or fill the Hugging Face cache that HF_HOME points at (on a machine "
    "with a network: `hf download {name} --revision {revision}`) and set HF_HUB_OFFLINE=1; a "
    "gated model also needs HF_TOKEN there."
)
ADAPTER = "adapter_config.json"
ORIGIN = "origin.json"  # of a converted checkpoint, see `Checkpoint.seal`
# What older versions of transformers saved beside the weights, and newer ones compute.
_COMPUTED = re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")
_HEAD = re.compile(r"(For[A-Z]\w*|LMHeadModel|Model)$")  # what a model is for, in its class name
_LANGUAGE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


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
        `monitorlab.models.chat`). No path of this machine.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: Mapping[str, Any]

    @classmethod
    def load(
        cls, name: str, revision: str = "", *, dtype: str = "float32", device: str = "cpu",
        quantization: str = "", adapter: str = "", adapter_revision: str = "",
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
        ModelError
            The model or its tokenizer cannot be found, its weights are not those of a whole causal
            language model, its chat template renders no user message, or the number format is
            unknown.
        ModelError
            The quantization is not possible here, or the adapter does not fit the model.
        """
        found = cls.load_plain(name, revision, dtype, device, quantization, adapter,
                               adapter_revision)
        form = ChatTemplate(found.tokenizer).form().settings()
        return replace(found, identity={**found.identity, **form})

    @classmethod
    def load_plain(
        cls, name: str, revision: str, dtype: str, device: str, quantization: str, adapter: str,
        adapter_revision: str,
    ) -> Checkpoint:
        """As `load`, for a model whose chat template need not render a system message."""
        _refuse_adapter(name)
        _check_training(name)
        tokenizer = load_tokenizer(name, revision)
        loader = AutoModelForCausalLM.from_pretrained
        if quantization:
            options = _quantized(quantization, dtype, device)
            model: PreTrainedModel = _whole_model(loader, name, revision, **options).eval()
        else:
            model = load_model(loader, name, revision, dtype, device)
        identity = {
            "model": cls.identify(name, revision),
            "dtype": dtype,
            "quantization": quantization,
            "adapter": None,
            "chat_template": digest_json(tokenizer.chat_template),
        }
        found = cls(model, tokenizer, identity)
        merge = not quantization and model.dtype == torch.float32
        return found.with_adapter(adapter, adapter_revision, merge) if adapter else found

    def copied_model(self, dtype: torch.dtype, own: bool = False) -> PreTrainedModel:
        """Return a model of its own modules on the weights of this one.

        Parameters
        ----------
        dtype : torch.dtype
            Weights in another format are converted, and then are copies.
        own : bool
            Copy all weights, and let them be trained; else they are shared and frozen.
        """
        known: dict[int, Any] = {}
        for weight in self.model.parameters():
            values = weight.detach()
            if values.is_floating_point():
                values = values.to(dtype, copy=own)
            known[id(weight)] = torch.nn.Parameter(values, own and values.is_floating_point())
        copied = copy.deepcopy(self.model, known)
        copied.name_or_path = ""  # PEFT would look for it on the hub, and write this machine's path
        return copied

    def with_adapter(self, name: str, revision: str = "", merge: bool = False) -> Checkpoint:
        """Put a LoRA adapter on the model, which is changed in place.

        Parameters
        ----------
        name, revision : str
            Of the adapter: a local folder, or a name on the hub and a commit, tag or branch there.
        merge : bool
            Add it to the weights, which is faster. In lower precision than single the sum would be
            rounded: there it should stay beside them, as it was trained.

        Raises
        ------
        ModelError
            The adapter cannot be found.
        ModelError
            It does not fit the model.
        """
        from peft import PeftConfig, PeftModel  # takes a second, and few need it
        from peft.utils import get_peft_model_state_dict, load_peft_weights

        def read(name: str, **options: Any) -> tuple[Any, set[str], dict[str, Any]]:
            config = PeftConfig.from_pretrained(name, **options)
            if Path(name).is_dir() and not any(Path(name).glob("adapter_model.*")):
                raise ModelError(f"{name!r} has no adapter_model.safetensors: copy or save the "
                                 "adapter again")
            return config, set(load_peft_weights(name, device="cpu", **options)), options

        _check_training(name)
        refusal = (f"the adapter {name!r} does not fit this model: {{}} Give the model that it was "
                   "trained on.")
        with warnings.catch_warnings(), no_progress_bars():
            # What PEFT warns of is an error below; and it asks the hub for the base, at hand here.
            warnings.simplefilter("ignore")
            config, saved, options = from_checkpoint(read, name, revision)
            if config.is_prompt_learning:
                raise ModelError(f"the adapter {name!r} is of the kind {config.peft_type.value}, "
                                 "which puts learned tokens before the prompt: expected LoRA")
            adapted: Any
            try:
                adapted = PeftModel.from_pretrained(self.model, name, config=config, **options)
                expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # a wrong base may make PEFT raise anything
                raise ModelError(refusal.format(" ".join(str(error).split())[:200])) from error
            # It also saves embeddings that it was trained beside, under their names in the model.
            surplus = saved - expected - set(adapted.state_dict())
            if wrong := (expected - saved) | surplus:
                raise ModelError(refusal.format(f"weights that are not in both: {len(wrong)}, such "
                                                  f"as {min(wrong)}."))
            if merge:
                _untie(adapted)
                adapted = adapted.merge_and_unload()
        identity = {**self.identity, "adapter": self.identify(name, revision)}
        return replace(self, model=adapted.eval(), identity=identity)

    @staticmethod
    def check_unchanged(folder: Path, files: Mapping[str, str]) -> None:
        """Compare files of a folder with their digests, by name.

        Raises
        ------
        ModelError
            One is missing or was changed.
        """
        for name, digest in files.items():
            if not (folder / name).is_file() or digest_file(folder / name) != digest:
                raise ModelError(f"{folder / name} is missing or was changed after it was written: "
                                 "take the folder from its source again, or train anew")

    @staticmethod
    def identify(name: str, revision: str) -> dict[str, str]:
        """Name and revision; for a folder its own name and the digest of what is in it.

        A folder of `seal` is known by what it was made of.

        Raises
        ------
        ModelError
            Such a folder was changed.
        """
        folder = Path(name)
        if (folder / ORIGIN).is_file():
            return _origin(folder)
        if folder.is_dir():
            return {"name": folder.resolve().name, "sha256": digest_json(digest_folder(folder))}
        return {"name": name, "revision": revision}

    @staticmethod
    def seal(folder: Path, identity: Mapping[str, str]) -> None:
        """Write down what a converted checkpoint was made of, and checksums of its files."""
        facts = {"identity": dict(identity), "xxh3_128": _checksums(folder)}
        (folder / ORIGIN).write_text(sealed_json(facts), encoding="utf-8")


def _check_training(name: str) -> None:
    """Check a local folder against the digests that a training has left there, if it has."""
    try:
        training = json.loads((Path(name) / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # of the hub, or nobody's training; who needs its record reads it
    Checkpoint.check_unchanged(Path(name), training.get("files", {}))


def fast_dtype(device: str) -> str:
    """Return the faster number format: "bfloat16" where the device computes in it, or "float32".

    A Llama of 135 million parameters read about three times as fast in bfloat16 on two cores with
    AVX-512 for it, and a third as fast on two without.
    """
    fast = torch.device(device).type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "float32"


def wheel_file(package: str, name: str, sha256: str, what: str, install: str) -> Path:
    """Find a file that an installed package carries; nothing of the package is imported.

    Parameters
    ----------
    package, name : str
        As it is imported, and the file's path in it.
    sha256 : str
        Of the file.
    what, install : str
        What it is, and the command that installs it, for messages.

    Raises
    ------
    ModelError
        It is not installed, or the file is not the known one.
    """
    found = importlib.util.find_spec(package)  # looks the files up, imports nothing
    if found is None or found.origin is None:
        raise ModelError(f"{what} is not installed: {install}")
    file, again = Path(found.origin).parent / name, install.replace(
        "install", "install --force-reinstall")
    if not file.is_file():
        raise ModelError(f"{file} is missing: {again}")
    if (digest := digest_file(file)) != sha256:
        raise ModelError(f"{file} has SHA-256 {digest}, expected {sha256}: do not use it; {again}")
    return file


def _origin(folder: Path) -> dict[str, str]:
    """Return the identity of a converted checkpoint, if nothing of it changed since."""
    try:
        facts = read_sealed(folder / ORIGIN)
    except DamagedFileError as error:
        raise ModelError(f"{folder / ORIGIN}: {error}. Delete the folder {folder}") from error
    found, stored = _checksums(folder), facts["xxh3_128"]
    if changed := sorted({name for name, _ in found.items() ^ stored.items()}):
        raise ModelError(f"{folder} was changed after it was made ({', '.join(changed)}): delete "
                         "the folder, and it is made again")
    return dict(facts["identity"])


def _checksums(folder: Path) -> dict[str, str]:
    """Checksum of every file but `ORIGIN`: they tell of damage, ten times as fast as SHA-256."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != ORIGIN:
            digest = xxh3_128()
            with path.open("rb") as stream:
                while block := stream.read(2**24):
                    digest.update(block)
            found[path.name] = digest.hexdigest()
    return found


def _torch_dtype(name: str) -> torch.dtype:
    kind = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype):
        raise ModelError(f"unknown dtype {name!r}: expected float32, bfloat16 or float16")
    return kind


def _quantized(quantization: str, dtype: str, device: str) -> dict[str, Any]:
    """Options of `from_pretrained` for a quantized model."""
    if quantization not in QUANTIZATIONS:
        raise ModelError(f"unknown quantization {quantization!r}: expected one of "
                         f"{', '.join(map(repr, QUANTIZATIONS))}")
    if torch.device(device).type == "cpu":
        raise ModelError(f"quantization {quantization!r} needs a CUDA device, found "
                         f"{device!r}: leave the quantization out, or give device=\"cuda\"")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"quantization {quantization!r} needs bitsandbytes, which is not "
                         "installed: pip install bitsandbytes")
    kind = _torch_dtype(dtype)
    config = BitsAndBytesConfig(load_in_8bit=True) if quantization == "int8" else (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                           bnb_4bit_compute_dtype=kind)
    )
    return {"quantization_config": config, "device_map": {"": device}, "dtype": kind}


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


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Silence bars and load reports of transformers; they would land in a notebook's stderr."""
    shown = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()


def from_checkpoint(loader: Callable[..., Any], name: str, revision: str, **options: Any) -> Any:
    """Call a `from_pretrained` on a local folder or a pinned hub model, the cache first.

    Parameters
    ----------
    loader : callable
        Such as `AutoTokenizer.from_pretrained`.
    name : str
        Local folder or hub name.
    revision : str
        Commit, tag or branch on the hub. Must be given for a hub name, so that a score can be
        reproduced; ignored for a folder.

    Raises
    ------
    ModelError
        No revision for a hub name, or the checkpoint is neither local, nor cached, nor reachable,
        or its files cannot be read; the message says what to set.
    """
    local = Path(name).is_dir()
    if not local and not revision:
        raise ModelError(f"{name!r} is not a local folder: pin a revision of the hub model")
    places: list[dict[str, Any]] = [{"local_files_only": True}]
    if not local:
        places[0]["revision"] = revision
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            places.append({"revision": revision})
    for place in places:
        try:
            with no_progress_bars():
                return loader(name, **place, **options)
        except (ModelError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a damaged file may make the libraries raise anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if local:
        raise ModelError(f"cannot load {name!r}: {reason}")
    advice = HELP.format(name=name, revision=revision)
    raise ModelError(f"cannot load {name!r} at revision {revision!r}: {reason} {advice}")


def load_model(
    loader: Callable[..., Any], name: str, revision: str, dtype: str = "float32",
    device: str = "cpu", **options: Any,
) -> Any:
    """Load a model of whose weights none is missing, left over, or of another shape.

    transformers fills what is missing at random and drops what is left over, with a warning at
    most, and such a model would answer all the same.

    Parameters
    ----------
    loader, name, revision
        As in `from_checkpoint`.
    dtype, device : str
        A torch name ("float32", "bfloat16", "float16"), and a torch device.
    **options
        Of `loader`, and: `heads`, parts of which weights may be left over, such as "lm_head" ("*"
        is any head on the body); `unread`, parts that may be missing, since the caller does not
        look at them, and are taken out; `new`, parts that are to be trained from new, where the
        checkpoint may be of another kind.

    Returns
    -------
    PreTrainedModel
        In evaluation mode.

    Raises
    ------
    ModelError
        The checkpoint cannot be loaded, is of another kind, or its weights do not fit.
    """
    kind = _torch_dtype(dtype)
    check_device(device)
    model = _whole_model(loader, name, revision, dtype=kind, **options)
    return model.to(device).eval()


def _whole_model(
    loader: Callable[..., Any], name: str, revision: str, *, heads: Sequence[str] = (),
    unread: Sequence[str] = (), new: Sequence[str] = (), **options: Any,
) -> Any:
    _refuse_adapter(name)
    model, info = from_checkpoint(loader, name, revision, output_loading_info=True,
                                  ignore_mismatched_sizes=True, **options)
    _refuse_adapter(name, getattr(model, "_hf_peft_config_loaded", False))
    if not new and "*" not in heads:
        _check_kind(model, name)
    _check_weights(model, info, name, heads, {*unread, *new})
    for part in {key.split(".")[0] for key in info["missing_keys"]} & set(unread):
        setattr(model, part, None)
    return model


def _refuse_adapter(name: str, is_one: bool = False) -> None:
    """Raise if a folder holds an adapter: transformers would load some base with it, unnamed."""
    if is_one or (Path(name) / ADAPTER).is_file():
        raise ModelError(f"{name!r} is an adapter and no whole model: give the model that it was "
                         f"trained on, and {name!r} as its adapter")


def _check_kind(model: PreTrainedModel, name: str) -> None:
    """Raise if the checkpoint says that it holds something else than what was made of it."""
    stated, made, config = model.config.architectures or [], type(model).__name__, model.config
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if encoder and _kind(made) == _LANGUAGE[0] and not getattr(config, "is_decoder", False):
        raise ModelError(f"{name!r} is an encoder ({config.model_type}): give a causal language "
                         "model, since an encoder sees the very words that it is to predict")
    if stated and _kind(made) not in [_kind(architecture) for architecture in stated]:
        raise ModelError(
            f"{name!r} holds {', '.join(stated)}, and was to be read as {made}: its weights were "
            f"trained for something else. Give a checkpoint of {made}"
        )


def _kind(architecture: str) -> str:
    """What a model is for, by the name of its class; all language models are one kind."""
    found = _HEAD.search(architecture)
    head = found[1] if found else architecture
    return _LANGUAGE[0] if head in _LANGUAGE else head


def _check_weights(
    model: PreTrainedModel, info: dict[str, Any], name: str, heads: Collection[str],
    loose: Collection[str],
) -> None:
    """Raise if a weight is missing, left over, or of another shape."""
    def shape(size: Sequence[int]) -> str:
        return " x ".join(map(str, size))

    buffers = dict(model.named_buffers())
    body = {child for child, _ in model.named_children()} | {model.base_model_prefix}
    missing = sorted(key for key in info["missing_keys"] if key.split(".")[0] not in loose
                     and not _computed(key, buffers.get(key)))
    shapes = sorted(f"{key} ({shape(found)}, expected {shape(wanted)})"
                    for key, found, wanted in info["mismatched_keys"])
    over = sorted(key for key in info["unexpected_keys"]
                  if not set(key.split(".")) & set(heads) and not _computed(key, None)
                  and ("*" not in heads or key.split(".")[0] in body))
    if getattr(getattr(model, "hf_quantizer", None), "pre_quantized", False):
        over = []  # scales lie beside the weights; each method has its own names for them
    for keys, what in ((missing, "are missing"), (shapes, "have another shape"),
                       (over, "have no place in it")):
        if keys:
            shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            raise ModelError(
                f"{name!r} is no whole {type(model).__name__}: {len(keys)} of its weights {what} "
                f"({shown}). Download or save it again, and see that its config.json is its own"
            )


def _computed(key: str, buffer: torch.Tensor | None) -> bool:
    """Whether a tensor is computed and not learned, so that a checkpoint need not hold it."""
    whole = buffer is not None and not buffer.is_floating_point()
    return whole or bool(_COMPUTED.search(key))


def load_tokenizer(name: str, revision: str) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer that can pad (with its end mark, if it has no mark of its own)."""
    tokenizer = from_checkpoint(AutoTokenizer.from_pretrained, name, revision)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"the tokenizer of {name!r} has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_device(device: str) -> None:
    """Raise ModelError if torch cannot compute there; costs nothing."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"there is no device {device!r} that torch can use here ({reason:.160}): "
                         "give cpu, or leave the option out") from None
