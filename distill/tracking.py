"""A run's numbers in Weights & Biases or Trackio, beside its folder.

By their own calls, not Accelerate's trackers: several runs of one process may be open at a time,
and a resumed one goes on where it was. Which run that is stands in OUT/tracker.json.
"""

import contextvars
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from distill.config import RunConfig
from distill.installed import version
from distill.run_log import write_json

PROJECT = "clip-distill"
_FILE = "tracker.json"


def check_tracker(config: RunConfig) -> None:
    """Find out before training whether its numbers can be tracked.

    Raises:
        ValueError: no package, or no folder that the tracker's run could be named after.
    """
    if config.track == "none":
        return
    if version(config.track) is None:
        raise ValueError(
            f"track={config.track!r} needs the package {config.track}, which is not installed: "
            'pip install "clip-distill[track]"'
        )
    if not config.out:
        raise ValueError(f"track={config.track!r} names its run after the run's folder: give out")


@contextmanager
def tracked(
    config: RunConfig, folder: Path | None, first_step: int
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Keep the tracker's run open; yields what takes a step's numbers.

    Steps that are taken again are sent again: of a run that is killed a tracker loses the last
    ones. Weights & Biases keeps those that it has, Trackio shows both, which are equal.
    """
    if folder is None or config.track == "none":
        yield lambda step, values: None
        return
    known = _known(folder, config.track) if first_step else None
    with {"wandb": _wandb_run, "trackio": _trackio_run}[config.track](config, folder, known) as run:
        write_json(folder / _FILE, {"track": config.track, "id": run.id})
        yield lambda step, values: run.log(values, step=step)


@contextmanager
def _wandb_run(config: RunConfig, folder: Path, known: str | None) -> Iterator[Any]:
    """A run whose files are in OUT/wandb; it has failed where what is inside raises."""
    import wandb  # pyright: ignore[reportMissingImports]

    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=_name(folder),
            id=known or uuid.uuid4().hex[:8],
            resume="allow",
            dir=str(folder),
            config=config.as_json(),
            reinit="create_new",
        )
    except wandb.Error as error:
        raise ValueError(
            f"track='wandb' could not begin ({error}): run `wandb login`, or set "
            "WANDB_MODE=offline and upload with `wandb sync` afterwards"
        ) from error
    with run:
        yield run


@contextmanager
def _trackio_run(config: RunConfig, folder: Path, known: str | None) -> Iterator[Any]:
    """A run that is found again by its name; what Trackio prints goes to stderr."""
    import trackio  # pyright: ignore[reportMissingImports]

    with redirect_stdout(sys.stderr):
        # In a context of its own: it would end the run that it finds in this one.
        run = contextvars.Context().run(
            trackio.init,
            PROJECT,
            name=_name(folder),
            config=config.as_json(),
            resume="allow" if known else "never",
            embed=False,
        )
    try:
        yield run
    finally:
        with redirect_stdout(sys.stderr):
            run.finish()


def _name(folder: Path) -> str:
    """The folder's name; of a stage's folder the run's too."""
    *_, run, stages, name = ("", "", *folder.resolve().parts)
    return f"{run}-{name}" if stages == "stages" else name


def _known(folder: Path, track: str) -> str | None:
    """The tracker's name for a run that was begun before, by the same tracker."""
    path = folder / _FILE
    before = json.loads(path.read_text()) if path.is_file() else {}
    return before.get("id") if before.get("track") == track else None
