"""Several trainings at once, one process and one thread each.

On few cores two processes of one thread beat one process of two; and a run that is a function of
its configuration needs no coordination. Runs that read the same batches may share a process and a
pass over the store, which changes none of them. A run whose folder holds a result of the same
configuration is not trained again, so that the same command goes on where it stopped; a folder
that holds a run of another configuration is moved aside, never emptied.
"""

import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from distill.config import RunConfig
from distill.doctor import usable_cores
from distill.feeding import configured_reading
from distill.run_log import read_log
from distill.same_run import differences
from distill.starting import train_from_config, train_several
from distill.worker_processes import (
    end_if_alone,
    end_with_launcher,
    process_context,
    take_environment,
)


def train_side_by_side(
    configs: Sequence[RunConfig],
    *,
    processes: int | None = None,
    console: Console,
    sharing: int = 1,
) -> list[dict[str, Any]]:
    """Train every configuration; return their `result.json` in order.

    Args:
        configs: each with a folder of its own in `out`.
        processes: how many at once; one a core when None.
        console: shows one progress line a run.
        sharing: of those that read the same batches, at most so many train from one pass.

    Raises:
        Whatever a run raised; the others are finished first.
    """
    processes = processes or max(1, int(usable_cores()))
    for config in configs:
        _move_other_run_aside(config, console)
    waiting = [config for config in configs if finished_result(config) is None]
    with ProcessPoolExecutor(
        max_workers=processes,
        mp_context=process_context(),
        initializer=_begin,
        initargs=(dict(os.environ),),
    ) as pool:
        futures: dict[str, Future[None]] = {}
        for together in _passes(waiting, sharing):
            future = pool.submit(train_quietly, together)
            futures |= {config.out: future for config in together}
        try:
            _watch(configs, futures, console)
        except BaseException:
            # Those that run are told by the same Ctrl-C and save; the others must not begin.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for future in futures.values():
        future.result()
    results = [finished_result(config) for config in configs]
    return [result for result in results if result is not None]


def _begin(environment: Mapping[str, str]) -> None:
    take_environment(environment)
    end_with_launcher()


def train_quietly(configs: Sequence[RunConfig]) -> None:
    """Train one run, or several from one pass, in this process: one thread, no progress bar."""
    torch.set_num_threads(1)
    try:
        if len(configs) == 1:
            train_from_config(configs[0], show=False)
        else:
            train_several(configs, show=False)
    finally:
        end_if_alone()


def _passes(configs: Sequence[RunConfig], most: int) -> list[list[RunConfig]]:
    """Put runs together that read the same, at most `most` of them; the longest passes first."""
    passes: list[list[RunConfig]] = []
    for config in configs:
        fitting = (
            found
            for found in passes
            if len(found) < most and _sharing(found[0]) == _sharing(config)
        )
        found = next(fitting, None)
        if found is None:
            passes.append([config])
        else:
            found.append(config)
    # A long one that began last would train while the other processes idle.
    return sorted(passes, key=lambda found: -sum(c.schedule.num_steps for c in found))


def _sharing(config: RunConfig) -> tuple[Any, ...]:
    """What runs that share a pass have in common: what they read, of which store, for whom."""
    if config.masks.on or config.student.stages:  # several trainings in a row
        return (config.out,)
    whole = (config.data, config.student, config.lock, config.objective.needs_teachers)
    return (*whole, configured_reading(config))


def finished_result(config: RunConfig) -> dict[str, Any] | None:
    """The result in a run's folder when it is of exactly this configuration, else None."""
    folder = Path(config.out)
    result, written = folder / "result.json", folder / "config.json"
    if not (result.is_file() and written.is_file()):
        return None
    return None if differences(config, folder) else json.loads(result.read_text())


def _move_other_run_aside(config: RunConfig, console: Console) -> None:
    """Rename a run's folder to NAME.before-N when what it holds was configured otherwise."""
    folder = Path(config.out)
    written = folder / "config.json"
    if written.is_file() and differences(config, folder):
        free = moved_aside(folder)
        console.print(
            f"{folder} held a run of another configuration; it is now {free}", highlight=False
        )


def moved_aside(path: Path) -> Path:
    """Rename a file or folder to NAME.before-N, the first that is free, and return that."""
    numbers = (path.with_name(f"{path.name}.before-{n}") for n in itertools.count(1))
    free = next(found for found in numbers if not found.exists())
    return path.rename(free)


def _watch(
    configs: Sequence[RunConfig], futures: dict[str, Future[None]], console: Console
) -> None:
    """Draw each run's progress from its log until all have ended."""
    progress = Progress(
        TextColumn("  {task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        tasks = {
            config.out: progress.add_task(
                Path(config.out).name, total=config.schedule.num_steps, note=""
            )
            for config in configs
        }
        while True:
            ended = all(future.done() for future in futures.values())
            for config in configs:
                records = [r for r in read_log(Path(config.out)) if "loss/total" in r]
                if config.out not in futures:
                    progress.update(tasks[config.out], completed=config.schedule.num_steps)
                elif records:
                    note = f"loss {records[-1]['loss/total']:.3f}"
                    progress.update(tasks[config.out], completed=records[-1]["step"], note=note)
            if ended:
                return
            time.sleep(0.5)
