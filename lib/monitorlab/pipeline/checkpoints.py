"""Checkpoints: trained models that are built once and reused while nothing changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monitorlab.pipeline.runs import Run, checked_name
from monitorlab.storage import sources
from monitorlab.storage.files import (
    canonical_json,
    digest_folder,
    made_by,
    pretty_json,
    write_folder_atomic,
)
from monitorlab.storage.manifests import ArtifactError


def _checkpoints_folder(root: Path | None = None) -> Path:
    """Return the folder of all checkpoints: MONITORLAB_CHECKPOINTS, else in the data cache."""
    override = os.environ.get("MONITORLAB_CHECKPOINTS")
    if override:
        return Path(override).expanduser().absolute()
    return (root or sources.project_root()) / "data" / "cache" / "checkpoints"


def checkpoint_folder(run: Run, name: str, fingerprint: Mapping[str, Any]) -> Path:
    """Return where `checkpoint` keeps a model, whether it is there or not."""
    digest = hashlib.sha256(_whole(fingerprint).encode()).hexdigest()
    return _checkpoints_folder(run.root) / f"{checked_name(name, 'checkpoint')}-{digest[:12]}"


def _whole(fingerprint: Mapping[str, Any]) -> str:
    """Return the fingerprint with the code that trains, as canonical JSON."""
    return canonical_json({**fingerprint, "made by": made_by()})


def checkpoint(run: Run, name: str, fingerprint: Mapping[str, Any],
               build: Callable[[Path], None]) -> Path:
    """Return a checkpoint folder, building it only when its fingerprint is new.

    Parameters
    ----------
    run : Run
        Records fingerprint and content in its manifest.
    name : str
        Name of the model.
    fingerprint : mapping
        Everything that decides the weights besides the code, which is added (see `made_by`):
        sizes, seed, data digests.
    build : callable
        Gets an empty folder and saves the model there (`save_pretrained`).

    Returns
    -------
    Path
        `<checkpoints>/<name>-<digest>`, shared between runs.

    Raises
    ------
    ArtifactError
        If a stored checkpoint was changed after it was built.
    """
    text = _whole(fingerprint)
    digest = hashlib.sha256(text.encode()).hexdigest()
    folder = checkpoint_folder(run, name, fingerprint)
    reused = folder.exists()
    if not reused:
        with write_folder_atomic(folder, keep_existing=True) as temporary:
            build(temporary)
            stored = {"fingerprint": json.loads(text), "digest": digest,
                      "files": digest_folder(temporary)}
            (temporary / "fingerprint.json").write_text(pretty_json(stored), encoding="utf-8")
    content = _verified_checkpoint(folder, digest)
    run.checkpoints[name] = {"fingerprint": digest, "content": content, "reused": reused}
    return folder


def _verified_checkpoint(folder: Path, digest: str) -> str:
    """Return the digest of a checkpoint's content after comparing it with what was stored."""
    try:
        stored = json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))
        written = stored["digest"]
        expected = {str(name): str(found) for name, found in dict(stored["files"]).items()}
    except (OSError, ValueError, LookupError, TypeError):
        written, expected = "", {}
    found = digest_folder(folder)
    if written != digest or expected != found:
        changed = sorted(set(found.items()) ^ set(expected.items()))
        files = ", ".join(dict.fromkeys(name for name, _ in changed)) or "fingerprint.json"
        raise ArtifactError(f"checkpoint {folder} was changed after it was built ({files}). "
                            "Delete the folder; it is built again on the next run.")
    return hashlib.sha256(canonical_json(found).encode()).hexdigest()
