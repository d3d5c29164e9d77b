"""The teachers' knowledge on disk: written once by `reinforce`, read by any student's training.

    reinforce("cc3m/{0000..0331}.tar", "cc3m-dr", teachers=teachers, num_views=10)
    loader = open_dataset("cc3m-dr").loader(preprocess=..., tokenizer=..., batch_size=1024, ...)

README.md beside this file specifies the format.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reinforced_data.api import *  # noqa: F403
    from reinforced_data.api import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        # Not before something is asked for: torch takes seconds, `distill --help` must not.
        module = Path(__file__).with_name(f"{name}.py").exists()
        if module or (name.startswith("__") and name != "__all__"):
            raise AttributeError(name)  # a module is found by Python itself
        import reinforced_data.api as api

        return getattr(api, name)
