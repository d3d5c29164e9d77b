"""Frozen models: what a teacher is, how it is loaded, and several of them side by side.

    donor = load_teacher("ViT-B-16/openai")
    teachers = Ensemble(donor, load_teacher("ViT-L-14/datacomp_xl_s13b_b90k", precision="int8"))

Everything that differs between teachers stays with each: image size, normalisation, tokenizer,
head (softmax or sigmoid), scale and bias, precision, fingerprint and licence. `ClipModel` is what
teachers and students share.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teachers.api import *  # noqa: F403
    from teachers.api import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        # Not before something is asked for: torch takes seconds, `distill --help` must not.
        module = Path(__file__).with_name(f"{name}.py").exists()
        if module or (name.startswith("__") and name != "__all__"):
            raise AttributeError(name)  # a module is found by Python itself
        import teachers.api as api

        return getattr(api, name)
