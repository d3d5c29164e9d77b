"""`load_transformers`: a model of the transformers library by hub id or folder.

Weights are read as tensors alone, and code that a repository brings is never run.
"""

from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import yaml

from teachers.captioners.sampling import Sampling
from teachers.captioners.transformers_model import TransformersModel
from teachers.hub import hub_or_cache
from teachers.suggestions import unknown_name

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_FOLDER = "a local folder as save_pretrained writes it"


def load_transformers(
    spec: str | Path,
    *,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    batch_size: int = 16,
) -> TransformersModel:
    """Load an image-to-text or language model.

    Args:
        spec: a hub id ("Salesforce/blip-image-captioning-base"), or a folder as `save_pretrained`
            writes it, with tokenizer or processor beside the weights.
        precision: "fp32" or "bf16".
        device: where it runs.
        sampling, batch_size: see `TransformersModel`.

    Raises:
        ValueError: transformers is not installed, or the model is none that writes.
        ConnectionError: not in the hub's cache, and the hub is out of reach.
        RuntimeError: the hub has no such model.
    """
    library = _library()
    if precision not in _DTYPES:
        raise unknown_name("precision for a transformers model", precision, _DTYPES)
    folder = Path(spec).expanduser()
    local = folder.is_dir()
    if not local and (isinstance(spec, Path) or spec.startswith(("/", ".", "~"))):
        raise ValueError(f"no folder {folder}: expected {_FOLDER}, or a hub id like owner/name")
    place = str(folder if local else spec)
    try:
        with hub_or_cache(place, _FOLDER):
            model, processor = _read(library, place, _DTYPES[precision])
            licence = _licence(folder / "README.md" if local else _card(place))
    except ConnectionError:
        raise
    except Exception as error:  # a user's folder, or a stranger's repository, fails in any way
        kind = ValueError if local or isinstance(error, ValueError) else RuntimeError
        raise kind(
            f"{place} could not be loaded with transformers ({type(error).__name__}): {error}"
        ) from error
    return TransformersModel(
        model.to(device).eval(),
        processor,
        name=folder.resolve().name if local else place,
        sampling=sampling,
        batch_size=batch_size,
        licence=licence,
    )


def _read(library: Any, place: str, dtype: torch.dtype) -> tuple[Any, Any]:
    config = library.AutoConfig.from_pretrained(place, trust_remote_code=False)
    options = {"dtype": dtype, "weights_only": True, "trust_remote_code": False, "config": config}
    for auto in (
        library.AutoModelForImageTextToText,
        library.AutoModelForCausalLM,
        library.AutoModelForSeq2SeqLM,
    ):
        if type(config) in auto._model_mapping:
            sees = auto is library.AutoModelForImageTextToText
            processor = _processor(library, place) if sees else _tokenizer(library, place)
            return auto.from_pretrained(place, **options), processor
    raise ValueError(
        f"a {config.model_type} model writes no texts: image-to-text and language models do"
    )


def _processor(library: Any, place: str) -> Any:
    processor = library.AutoProcessor.from_pretrained(place, trust_remote_code=False)
    if hasattr(processor, "image_processor"):
        return processor
    # A vision encoder beside a language model has no processor of its own, and AutoProcessor gives
    # whichever half it finds first.
    pictures = library.AutoImageProcessor.from_pretrained(place, trust_remote_code=False)
    return pictures, _tokenizer(library, place)


def _tokenizer(library: Any, place: str) -> Any:
    return library.AutoTokenizer.from_pretrained(place, trust_remote_code=False)


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            "captioners of the transformers library need it: pip install 'clip-distill[caption]'"
        ) from error
    return transformers


def _card(repository: str) -> Path | None:
    try:
        return Path(huggingface_hub.hf_hub_download(repository, "README.md"))
    except OSError:  # no card, or not in the cache
        return None


def _licence(card: Path | None) -> str | None:
    """Read the licence from the front matter of a model card."""
    if card is None or not card.is_file():
        return None
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    try:
        fields = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        return None
    found = fields.get("license") if isinstance(fields, dict) else None
    return str(found) if found else None
