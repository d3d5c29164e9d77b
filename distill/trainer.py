"""The training loop, on Accelerate: one process, DDP or gloo on the CPU, the same code.

Batches and dropout are functions of (seed, step): a resumed run goes on where it stopped. Several
students may learn from one pass over the store: each batch is read once, and each run takes its
own step on it, as it would alone. What surrounds the steps of a run is `distill.running`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from accelerate import Accelerator

from distill.config import RunConfig
from distill.diverging import DivergedError
from distill.feeding import batches, check_one_reading
from distill.fit_result import FitResult
from distill.mask_learning import MaskLearner
from distill.run_log import progress_bars
from distill.running import Run
from distill.stopping import Stopped
from reinforced_data import Batch, ReinforcedDataset
from reinforced_data.stop_signals import StopSignals
from students import Student


def fit(
    student: Student,
    dataset: ReinforcedDataset,
    config: RunConfig,
    *,
    show: bool = True,
    learner: MaskLearner | None = None,
) -> FitResult:
    """Train `student` in place as `config` says; resume from the newest checkpoint in its folder.

    Args:
        student: built, with donor weights already in it.
        dataset: an opened store; `config.data.store` is not looked at here.
        config: the whole run. An empty `out` writes nothing.
        show: draw a progress bar on the main process.
        learner: of the masks in `student`: takes the steps with masks alone, and saves no student.

    Raises:
        DivergedError: too many bad steps in a row.
        Stopped: SIGTERM, SIGUSR1 or Ctrl-C came; the run is saved.
        ValueError: the folder cannot be written to or holds another run, or the data is unusable.
    """
    (done,) = _train([Run(student, dataset, config, learner)], dataset, show=show)
    if isinstance(done, DivergedError):
        raise done
    return done


def fit_several(
    students: Sequence[Student],
    dataset: ReinforcedDataset,
    configs: Sequence[RunConfig],
    *,
    show: bool = True,
) -> list[FitResult | DivergedError]:
    """Train each student as `fit` would, all from one pass over the store.

    A run that diverges leaves, and its error is in its place; the others go on. One whose newest
    checkpoint is ahead of another's waits for it.

    Raises:
        Stopped: SIGTERM, SIGUSR1 or Ctrl-C came; every run is saved.
        ValueError: as for `fit`, or the runs do not read the same batches.
    """
    check_one_reading(dataset, students, configs)
    pairs = zip(students, configs, strict=True)
    runs = [Run(student, dataset, config) for student, config in pairs]
    return _train(runs, dataset, show=show)


def _train(
    runs: Sequence[Run], dataset: ReinforcedDataset, *, show: bool
) -> list[FitResult | DivergedError]:
    """Begin every run, loop, and finish each."""
    failed: dict[int, DivergedError] = {}
    with _named_errors(runs[0].accelerator), ExitStack() as stack:
        bars = stack.enter_context(progress_bars(show and runs[0].is_main_process))
        for run in runs:
            stack.enter_context(run.begun(bars))
        with StopSignals() as signals:
            _loop(runs, dataset, signals, failed)
        done = list[FitResult | DivergedError]()
        for number, run in enumerate(runs):
            with _by_itself(run, runs):
                done.append(failed.get(number) or run.finish())
        return done


@contextmanager
def _by_itself(run: Run, runs: Sequence[Run]) -> Iterator[None]:
    """What happens now is this run's; the others' clocks do not count it."""
    with ExitStack() as stack:
        for other in runs:
            if other is not run:
                stack.enter_context(other.clock.stopped())
        yield


@contextmanager
def _named_errors(accelerator: Accelerator) -> Iterator[None]:
    """Say in an error which of several processes it happened in; the launcher ends the rest."""
    try:
        yield
    except Exception as error:
        if accelerator.num_processes > 1:
            error.add_note(f"in process {accelerator.process_index} of {accelerator.num_processes}")
        raise


def _loop(
    runs: Sequence[Run],
    dataset: ReinforcedDataset,
    signals: StopSignals,
    failed: dict[int, DivergedError],
) -> None:
    """Hand every batch to every run that has not taken that step before."""
    first = min(run.first for run in runs)
    for step, batch in enumerate(_loaded(runs, dataset, first), start=first + 1):
        stops: dict[str, int] = {}
        for number, run in enumerate(runs):
            if number in failed or step <= run.first:
                continue
            try:
                with _by_itself(run, runs):
                    stops[run.config.out] = run.take(batch, step, signals)
            except DivergedError as error:
                failed[number] = error
        if any(stops.values()):
            for run in runs:  # the signal came after its step
                if stops.get(run.config.out) == 0:
                    run.save(step)
            raise Stopped(max(stops.values()), step, ", ".join(stops))
        _evaluate([r for n, r in enumerate(runs) if n not in failed], step)
        if len(failed) == len(runs):
            return


def _evaluate(runs: Sequence[Run], step: int) -> None:
    """Run the evaluations that are due, which nobody's clock counts."""
    due = [run for run in runs if run.first < step and run.evaluates_after(step)]
    if due:
        with ExitStack() as stack:
            for run in runs:
                stack.enter_context(run.clock.stopped())
            for run in due:
                run.evaluate(step)


def _loaded(runs: Sequence[Run], dataset: ReinforcedDataset, first: int) -> Iterable[Batch]:
    """Batches of this process from step `first` on; every run's clock sees the waiting."""
    run = runs[0]
    found = batches(
        dataset,
        run.student,
        run.config,
        first=first,
        last=run.last,
        rank=run.accelerator.process_index,
        world_size=run.accelerator.num_processes,
    )
    for one in runs:
        found = one.clock.waiting(found)
    return found
