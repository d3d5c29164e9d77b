"""The act of teaching, and the front door of clip-distill.

`train` a student on a reinforced dataset, `evaluate` any model, `losses` and `ops` for your own
loops. Teachers, students and data have packages of their own.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.api import *  # noqa: F403
    from distill.api import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        # Not before something is asked for: torch takes seconds, `distill --help` must not.
        module = Path(__file__).with_name(f"{name}.py").exists()
        if module or (name.startswith("__") and name != "__all__"):
            raise AttributeError(name)  # a module is found by Python itself
        import distill.api as api

        return getattr(api, name)
