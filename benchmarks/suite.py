"""The tests of `distill evaluate` on the ladder's trained students: `results/suite-NAME.csv`.

    python benchmarks/suite.py --data FOLDER --out FOLDER

with the folders that `ladder.py` was given; nothing is trained. Every row's runs, at the row's
committed rate, and the larger teacher are asked on the held-out split, with what `distill evaluate
--tests` runs:

- zero-shot top-1 and retrieval; agreement with the larger teacher
- calibration, and once more at the scale that fits the validation split best ("ece_fitted")
- corruptions at severity 3, the typographic attack, pictures and towers of 24 and 48 pixels;
  "kept" is the accuracy then over the clean one
- the linear probe, on `PROBED` names that three training pictures or more have: on all of them its
  fit takes half an hour a model
- "alike", the share of class names that another one is as near to as 0.95, or is spelt like but
  for case, spaces and punctuation, whatever their cosine

Every number is in percent. Students are compared with "distilled", seed by seed, by the ladder's
own statistics.
"""

import argparse
import csv
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ladder
import torch
from ladder_table import (
    Finished,
    committed_rows,
    mean_and_error,
    paired,
    provenance,
    verdict,
)
from ladder_world import own_source
from rich.console import Console
from torch.nn.functional import cross_entropy

from distill.doctor import usable_cores
from distill.evaluation import evaluate
from distill.evaluation.calibration import calibration
from distill.evaluation.class_audit import alike_classes
from distill.evaluation.embedding import embed_source
from distill.evaluation.probing import linear_probe
from distill.evaluation.suite import Suite, class_names, run_suite
from distill.evaluation.zero_shot import embed_classes, names_to_choose
from distill.retrieval_cases import evenly
from distill.worker_processes import end_with_launcher, process_context
from reinforced_data.source import Sample, open_source
from students import Student, load_student

RESULTS = Path(__file__).parent / "results"
ROWS = ("undistilled", "control", "distilled", "optimizer-muon", "best", "control-best")
BASE = "distilled"
TESTS = ("corruptions", "typographic", "sizes", "calibration")
SEVERITIES, SIZES = (3,), (24, 48)
PROBED, PICTURES_A_NAME = 200, 3
LOWER_IS_BETTER = ("ece", "ece_fitted", "typographic/fooled", "alike")
_FACTORS = torch.logspace(-3, 3, 97, base=2, dtype=torch.float64).tolist()
_NOT_WRITTEN = ("confidence", "contrastive_loss", "samples", "skipped")
_COLUMNS = (
    *("row", "metric", "better", "mean", "standard_error", "seeds", "scores"),
    *(f"minus_{BASE}", "verdict", "learning_rate"),
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One model and what it is asked on; paths, as another process does the work.

    Attributes:
        teacher: to agree with; the teacher itself is asked without one.
    """

    model: str
    teacher: str | None
    train: str
    validation: str
    heldout: str
    limit: int | None


def main() -> None:
    """Ask every model, in processes of one thread; write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="the ladder's folder of shards")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"), help="the ladder's")
    parser.add_argument("--rows", nargs="*", default=ROWS)
    parser.add_argument("--limit", type=int, help="samples of each split, no probe: to try it")
    parser.add_argument("--processes", type=int, default=max(1, int(usable_cores())))
    parser.add_argument("--results", type=Path, help="benchmarks/results, or in --out if less")
    asked = parser.parse_args()
    whole = (asked.limit, tuple(asked.rows)) == (None, tuple(ROWS))
    results = asked.results or (RESULTS if whole else asked.out / "results-suite")
    results.mkdir(parents=True, exist_ok=True)
    made_by = provenance()  # what runs now, not what is committed while it runs
    world, console = own_source(asked.data, asked.out), Console()
    committed = committed_rows(RESULTS, world, asked.rows)
    splits = {"train": world.train, **world.splits}
    teacher = str(world.teacher_folder)
    models = {("teacher-a", 0): Asked(model=teacher, teacher=None, limit=asked.limit, **splits)}
    for row in committed:
        for seed in range(len(row.runs)):
            effort = ladder.Effort(steps=ladder.STEPS, seeds=1, sweep=(), processes=1)
            folder = ladder.config_of(world.place(), row.name, effort, row.rate, seed).out
            models[row.name, seed] = Asked(
                model=folder, teacher=teacher, limit=asked.limit, **splits
            )
    found = dict(
        zip(models, _answers(list(models.values()), asked.processes, console), strict=True)
    )
    rows = [Finished(name="teacher-a", rate=0.0, runs=[{"metrics": found["teacher-a", 0]}])]
    for row in committed:
        runs = [{"metrics": found[row.name, seed]} for seed in range(len(row.runs))]
        rows.append(Finished(name=row.name, rate=row.rate, runs=runs))
    path = write_table(results / f"suite-{world.name}.csv", rows, made_by)
    console.print(f"wrote {path}", highlight=False)


def _answers(asked: Sequence[Asked], processes: int, console: Console) -> list[dict[str, float]]:
    missing = [each.model for each in asked if not Path(each.model, "student.json").is_file()]
    if missing:
        raise SystemExit(f"{missing[0]} holds no student: run benchmarks/ladder.py first")
    with ProcessPoolExecutor(processes, process_context(), end_with_launcher) as pool:
        found = []
        for each, scores in zip(asked, pool.map(answers, asked), strict=True):
            console.print(f"{each.model}: {scores['top1']:.3f}", highlight=False)
            found.append(scores)
    return found


def answers(asked: Asked) -> dict[str, float]:
    """Ask one model everything; fractions by name."""
    torch.set_num_threads(1)
    model = load_student(asked.model)
    suite = Suite(
        source=asked.heldout,
        severities=SEVERITIES,
        sizes=SIZES,
        teacher=load_student(asked.teacher) if asked.teacher else None,
        limit=asked.limit,
    )
    tests = (*TESTS, *(["agreement"] if asked.teacher else []))
    scores = evaluate(model, asked.heldout, limit=asked.limit) | run_suite(model, suite, tests)
    for name in ("corrupted", "typographic", *(f"size/{size}" for size in SIZES)):
        # Of nothing no share is kept.
        clean = scores["top1"] or math.nan
        scores[f"{name}/kept"] = scores[f"{name}/top1"] / clean
    scores["ece_fitted"] = _fitted_calibration(model, asked)
    if asked.limit is None:
        scores["probe_top1"] = linear_probe(model, *_probed(asked))["probe_top1"]
    names = class_names(asked.heldout, asked.limit)
    pairs = alike_classes(model, names)
    scores["alike"] = len({name for pair in pairs for name in (pair.first, pair.second)})
    scores["alike"] /= len(names)
    return {name: score for name, score in scores.items() if name not in _NOT_WRITTEN}


def _fitted_calibration(model: Student, asked: Asked) -> float:
    """Return the ece at the scale with the least cross-entropy on validation (Guo et al. 2017)."""
    images, targets, rows, _, _ = _classified(model, asked.validation, asked.limit)
    own = float(model.with_head(images, rows).logit_scale)
    cosines = images @ rows.T
    scale = min(
        (own * factor for factor in _FACTORS),
        key=lambda scale: float(cross_entropy(scale * cosines, targets)),
    )
    images, _, rows, labels, names = _classified(model, asked.heldout, asked.limit)
    return calibration(images, labels, names, rows, scale)["ece"]


def _classified(
    model: Student, source: str, limit: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str], list[str]]:
    """Picture rows, indices of their classes, class rows, labels, class names."""
    images, labels = embed_source(model, source, limit=limit).labelled()
    names = names_to_choose(labels, None)
    targets = torch.tensor([names.index(label) for label in labels])
    return images, targets, embed_classes(model, names, ("{}",)), labels, names


def _probed(asked: Asked) -> tuple[list[Sample], list[Sample]]:
    """Choose names evenly over the alphabet; return their pictures to learn from and to test."""
    train, test = list(open_source(asked.train)), list(open_source(asked.heldout))
    counts = Counter(sample.label for sample in train)
    tested = {sample.label for sample in test if sample.label is not None}
    enough = sorted(name for name in tested if counts[name] >= PICTURES_A_NAME)
    chosen = set(evenly(enough, PROBED))
    learnt = [sample for sample in train if sample.label in chosen]
    return learnt, [sample for sample in test if sample.label in chosen]


def write_table(path: Path, rows: list[Finished], made_by: str) -> Path:
    """Write a line per row and metric, each against the base row, seed by seed."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for row in rows:
            for key in row.runs[0]["metrics"]:
                writer.writerow(_line(row, key, rows))
        file.write(f"# {made_by}\n")
    return path


def _line(row: Finished, key: str, rows: list[Finished]) -> list[object]:
    scores, lower = row.scores(key), key in LOWER_IS_BETTER
    mean, error = mean_and_error(scores)
    differences = paired(row, key, rows, BASE) if row.rate else []
    if any(map(math.isnan, differences)):  # a share that some seed does not have
        differences = []
    against: list[str] = ["", ""]
    if differences:
        gains = [-each for each in differences] if lower else differences
        against = [f"{mean_and_error(differences)[0]:.2f}", verdict(gains)]
    return [
        *(row.name, key, "lower" if lower else "higher", f"{mean:.2f}"),
        f"{error:.2f}" if len(scores) > 1 else "",
        *(len(scores), " ".join(f"{score:.2f}" for score in scores)),
        *(*against, row.rate or ""),
    ]


if __name__ == "__main__":
    main()
