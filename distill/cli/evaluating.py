"""`distill evaluate`: scores of any model, and what else a student should be asked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import hint_at_gpu, parse, read_class_names

if TYPE_CHECKING:
    from distill.evaluation.suite import Suite
    from teachers.clip_model import ClipModel

_Sentences = Mapping[str, Sequence[str]] | None


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Zero-shot accuracy and retrieval of a model on shards of pictures with captions.

    More is asked with --tests: corruptions (ImageNet-C's), typographic (another class's name
    written on the picture), resolutions, sizes, calibration, agreement (with --against), probe
    (linear).

    Attributes:
        model: a student's folder, or a teacher: open_clip name/tag, hf-hub:ID, local folder.
        on: sources to evaluate on; `NAME=SHARDS` gives a split its name in the results.
        templates: a set by name (plain, photo, photo7, imagenet), or prompts with {} for the
            class name; class vectors are averaged over them.
        prompts: a JSON file of sentences for each class (CuPL), beside the templates.
        hierarchy: a JSON file of each name's parent or parents; classes get a sentence for each way
            up (SHiNe), beside the templates.
        tests: see above; each is a pass over every source.
        severities: of the corruptions, from 1 to 5; scores are means over them.
        resolutions: pixels a side for the test of that name: coarser pictures at the model's size.
        sizes: pixels a side for the test of that name: the image tower runs at them.
        probe_train: shards with labels that the probe learns from.
        alike: list class names that the model can hardly tell apart.
        leaks_from: training shards; pictures of a source that are in them, or nearly, are listed,
            and what --alike lists.
        against: a teacher to compare with: another model, or metrics written by --out.
        classes: a text file of class names, one a line; by default the labels of the source, which
            must be names and not numbers (distill pack --class-names).
        captions_from: the member or JSON field that holds the captions.
        limit: stop after so many samples of each source.
        device: where the model runs: cpu, cuda, cuda:1, mps.
        out: write the metrics here as JSON.
    """

    model: Annotated[str, tyro.conf.Positional]
    on: tuple[str, ...]
    templates: tuple[str, ...] = ("plain",)
    prompts: Path | None = None
    hierarchy: Path | None = None
    tests: tuple[str, ...] = ()
    severities: tuple[int, ...] = (3,)
    resolutions: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    probe_train: str | None = None
    alike: bool = False
    leaks_from: str | None = None
    against: str | None = None
    classes: Path | None = None
    captions_from: str | None = None
    limit: int | None = None
    device: str = "cpu"
    out: Path | None = None


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Evaluate, compare, print, write."""
    asked = parse(Evaluate, "evaluate", arguments)
    hint_at_gpu(asked.device, console)
    from distill.evaluation import retention
    from distill.evaluation.suite import check_suite
    from distill.model_loading import load_model
    from students.student import tower_params

    model = load_model(asked.model, device=asked.device)
    _check_sources(asked)
    teacher, reference = _against(asked)
    check_suite(model, _suite(asked, "", teacher, None), asked.tests)
    names = _names_by_split(asked)
    sentences = _sentences(asked, names, console)
    metrics = _metrics(asked, model, teacher, sentences, console)
    if teacher is not None:
        # What compares the student with its teacher is nothing to compare the teacher by, and a
        # teacher is not shipped: it may refuse a size that the student runs at.
        tests = tuple(name for name in asked.tests if name not in ("agreement", "sizes"))
        reference = _metrics(replace(asked, tests=tests), teacher, None, sentences, console)
    kept = retention(metrics, reference) if reference else None
    values: dict[str, Any] = {"model": asked.model, "metrics": metrics, "retention": kept}
    values |= {f"{tower}_params": count for tower, count in tower_params(model).items()}
    values |= _what_was_asked(asked, names)
    table = Table("metric", asked.model, *(["against", "retention"] if kept else []))
    for name, value in metrics.items():
        share = kept.get(name) if kept else None
        beside = [] if share is None else [f"{reference[name]:.4f}", f"{share:.3f}"]
        table.add_row(name, f"{value:.4f}", *beside)
    console.print(table)
    if asked.alike or asked.leaks_from is not None:
        values["audit"] = _audit(asked, model, names, sentences, console)
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(values, indent=2))
    left_out = any(value for name, value in metrics.items() if name.endswith("skipped"))
    return Outcome(values=values, exit_code=3 if left_out else 0)


def _audit(
    asked: Evaluate,
    model: "ClipModel",
    names: dict[str, list[str]],
    sentences: _Sentences,
    console: Console,
) -> dict[str, Any]:
    from distill.cli.class_audit import audit_split
    from distill.evaluation.class_audit import known_pictures
    from distill.evaluation.zero_shot import named_templates

    rows = {"templates": named_templates(asked.templates), "sentences": sentences}
    train = None if asked.leaks_from is None else known_pictures(model, asked.leaks_from)
    return {
        split: audit_split(
            model,
            source,
            names[split],
            rows,
            console,
            called=split or source,
            train=train,
            limit=asked.limit,
        )
        for split, source in _named_splits(asked.on).items()
    }


def _check_sources(asked: Evaluate) -> None:
    """Refuse, before a pass over the pictures, what would be refused after one."""
    from distill.evaluation.label_checks import check_first_labels
    from reinforced_data.source import open_source

    splits = _named_splits(asked.on).values()
    for source in (*splits, *filter(None, (asked.leaks_from,))):
        open_source(source)
    for source in splits if asked.classes is None else ():
        check_first_labels(source)


def _suite(
    asked: Evaluate, source: str, teacher: "ClipModel | None", sentences: _Sentences
) -> "Suite":
    from distill.evaluation.suite import Suite
    from distill.evaluation.zero_shot import named_templates

    return Suite(
        source=source,
        classes=None if asked.classes is None else read_class_names(asked.classes),
        templates=named_templates(asked.templates),
        sentences=sentences,
        severities=asked.severities,
        resolutions=asked.resolutions,
        sizes=asked.sizes,
        teacher=teacher,
        probe_train=asked.probe_train,
        limit=asked.limit,
    )


def _metrics(
    asked: Evaluate,
    model: "ClipModel",
    teacher: "ClipModel | None",
    sentences: _Sentences,
    console: Console,
) -> dict[str, float]:
    """Evaluate on every split, then run the tests on each."""
    from distill.evaluation.splits import evaluate_splits
    from distill.evaluation.suite import run_suite

    splits = _named_splits(asked.on)
    metrics = evaluate_splits(
        model,
        splits,
        templates=asked.templates,
        sentences=sentences,
        classes=None if asked.classes is None else read_class_names(asked.classes),
        captions_from=asked.captions_from,
        limit=asked.limit,
    )
    for split, source in splits.items():
        suite = _suite(asked, source, teacher, sentences)
        if asked.tests:
            console.print(f"[dim]{', '.join(asked.tests)} {split and f'on {split}'}[/]")
        found = run_suite(model, suite, asked.tests)
        metrics |= {(f"{split}/" if split else "") + name: x for name, x in found.items()}
    return metrics


def _sentences(asked: Evaluate, names: dict[str, list[str]], console: Console) -> _Sentences:
    """Read CuPL's file and the hierarchy; a class has the sentences of both."""
    from distill.evaluation import prompt_files

    every = sorted({name for own in names.values() for name in own})
    if not every and (asked.prompts or asked.hierarchy):
        raise ValueError(
            "--prompts and --hierarchy are of class names, and no source has labels (cls members): "
            "give the names with --classes FILE, or leave both out"
        )
    found: dict[str, list[str]] = {}
    if asked.prompts is not None:
        found = prompt_files.read_sentences(asked.prompts)
        if without := prompt_files.classes_without(found, every):
            console.print(f"{without} of {len(every)} classes have no sentences in {asked.prompts}")
    if asked.hierarchy is not None:
        parents = prompt_files.read_hierarchy(asked.hierarchy)
        for name, texts in prompt_files.hierarchy_sentences(every, parents).items():
            found[name] = [*found.get(name, []), *texts]
    return found or None


def _against(asked: Evaluate) -> "tuple[ClipModel | None, dict[str, float]]":
    """Load the teacher to compare with, or read its metrics from a file."""
    from distill.model_loading import load_model

    if asked.against is None:
        return None, {}
    if not asked.against.endswith(".json"):
        return load_model(asked.against, device=asked.device), {}
    try:
        return None, json.loads(Path(asked.against).read_text())["metrics"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--against {asked.against} holds no metrics ({error!r}); write it with `distill "
            f"evaluate TEACHER --on ... --out {asked.against}`"
        ) from error


def _names_by_split(asked: Evaluate) -> dict[str, list[str]]:
    """Return the names that each split's pictures are put under; nothing where none asks."""
    from distill.evaluation.suite import class_names
    from distill.evaluation.zero_shot import names_to_choose

    asking = (asked.leaks_from, asked.out, asked.prompts, asked.hierarchy)
    if not asked.alike and all(option is None for option in asking):
        return {}  # labels cost a pass over the source
    given = None if asked.classes is None else read_class_names(asked.classes)
    names = {}
    for split, source in _named_splits(asked.on).items():
        labels = class_names(source, asked.limit) if given is None else ()
        names[split] = names_to_choose(labels, given, source)
        if asked.alike and not names[split]:
            raise ValueError(
                f"--alike compares class names, and {source} has no labels (cls members); give "
                "the names with --classes FILE, or leave --alike out"
            )
    return names


def _what_was_asked(asked: Evaluate, names: dict[str, list[str]]) -> dict[str, Any]:
    """Say what the scores answer, so that two files can be compared: JSON values."""
    from distill.evaluation.zero_shot import named_templates
    from distill.provenance import provenance

    flags = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(asked).items()
    }
    flags["templates"] = named_templates(asked.templates)
    counts = {split: len(own) for split, own in names.items()}
    return {"asked": flags, "class_counts": counts, "provenance": provenance()}


def _named_splits(sources: Sequence[str]) -> dict[str, str]:
    """Read `NAME=SHARDS` or bare shards; several need names of their own."""
    splits: dict[str, str] = {}
    for text in sources:
        name, equals, source = text.partition("=")
        # The = of a path, as in s3://b/date=2024/, begins no name.
        if not equals or "/" in name or ":" in name:
            name, source = "", text
        if name in splits:
            raise ValueError(
                f"--on names the split {name!r} twice; with several sources write NAME=SHARDS"
            )
        splits[name] = source
    return splits
