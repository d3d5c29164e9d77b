"""Small dual encoders: built by name, specification or module; saved, profiled, exported."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from students.api import *  # noqa: F403
    from students.api import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        # Not before something is asked for: torch takes seconds, `distill --help` must not.
        module = Path(__file__).with_name(f"{name}.py").exists()
        if module or (name.startswith("__") and name != "__all__"):
            raise AttributeError(name)  # a module is found by Python itself
        import students.api as api

        return getattr(api, name)
