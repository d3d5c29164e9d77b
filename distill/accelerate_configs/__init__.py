"""Ready files for `accelerate launch`, one for each kind of machine.

`distill show accelerate ddp` prints a path, so that a launch is one line:

    accelerate launch --config_file $(distill show accelerate ddp) -m distill train RECIPE

A file holds what accelerate reads from files. What it reads only from the environment
(`ACCELERATE_USE_CPU`) is in `launch_environment`; each file's own comment says how to start it.
"""

from pathlib import Path

from teachers.suggestions import unknown_name

_FOLDER = Path(__file__).parent
# name -> when to take it.
CONFIGS = {
    "cpu": "one process on the CPU",
    "cpu2": "two processes on the CPU, over gloo",
    "gpu": "one process on one GPU",
    "ddp": "one process for each GPU of this machine",
    "multi_node": "the GPUs of several machines",
    "fsdp2": "students too large for one GPU, sharded over the GPUs of this machine",
}


def config_path(name: str) -> Path:
    """Path of the accelerate configuration called `name`."""
    if name not in CONFIGS:
        raise unknown_name("accelerate config", name, CONFIGS)
    return _FOLDER / f"{name}.yaml"


def launch_environment(name: str) -> dict[str, str]:
    """Environment variables that `accelerate launch` needs beside the file."""
    config_path(name)
    # accelerate exports `use_cpu` from its single-process launcher alone. Without the variable
    # each of the two processes believes that it is the only one.
    return {"ACCELERATE_USE_CPU": "true"} if name == "cpu2" else {}
