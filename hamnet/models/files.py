"""Model files: safetensors weights with the metadata as JSON in the header; never a pickle."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hamnet.errors import HamnetError
from hamnet.files import replacing
from hamnet.models.metadata import Metadata
from hamnet.models.model import HamiltonianModel
from hamnet.models.upgrade import upgrade
from hamnet.nn.execution import Execution
from hamnet.validation import validate

MODEL_FILE = "model.safetensors"
"""Name of the model inside the folder of a training run."""

_KEY = "hamnet"


def save_model(model: HamiltonianModel, path: Path) -> None:
    """Write a model; the file appears whole or not at all.

    Raises:
        HamnetError: the file cannot be written.
    """
    header = {_KEY: model.metadata.model_dump_json()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with replacing(path) as partial:
        partial.write_bytes(save(tensors, metadata=header))


def model_file(path: Path) -> Path:
    """Return the model file of a path: the file itself, or that in the folder of a run.

    Raises:
        HamnetError: a folder without a model.
    """
    if not path.is_dir():
        return path
    if not (path / MODEL_FILE).exists():
        raise HamnetError(
            f"{path}: holds no {MODEL_FILE}; is it the folder of a training run that finished?"
        )
    return path / MODEL_FILE


def load_model(path: str | Path, *, compiled: bool = False) -> HamiltonianModel:
    """Read a model from its file, or from the folder of the run that made it.

    Args:
        path: the file or the folder.
        compiled: compile the network's convolutions at the first prediction (`torch.compile`).

    Raises:
        HamnetError: no such file, damaged, no hamnet model, or of another format version.
    """
    path = model_file(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise HamnetError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise HamnetError(f"{path}: not a readable model file ({error})") from error
    model = HamiltonianModel(_metadata(header, tensors, path))
    model.network.to(_precision(tensors))  # before loading: float64 weights lose no digit
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise HamnetError(f"{path}: weights and metadata do not fit ({error})") from error
    model.network.execution = Execution(compiled=compiled)
    return model.eval()


def fingerprint(model: HamiltonianModel) -> str:
    """Return the hash of metadata and weights, 32 hex digits: two models with it are the same."""
    digest = hashlib.sha256(model.metadata.model_dump_json().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _metadata(header: dict[str, str], tensors: dict[str, torch.Tensor], path: Path) -> Metadata:
    if _KEY not in header:
        raise HamnetError(f"{path}: a safetensors file, but not a hamnet model")
    try:
        data = json.loads(header[_KEY])
    except json.JSONDecodeError as error:
        raise HamnetError(f"{path}: the metadata is damaged ({error})") from error
    if not isinstance(data, dict):
        raise HamnetError(f"{path}: the metadata is damaged (no JSON object)")
    upgrade(data, tensors, str(path))
    return validate(Metadata, data, str(path))


def _precision(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    return next(t.dtype for name, t in tensors.items() if name.startswith("network."))
