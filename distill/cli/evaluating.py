"""`distill evaluate`: scores of any model, and what else a student should be asked."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse, read_class_names

if TYPE_CHECKING:
    from teachers.clip_model import ClipModel

# Of each list, on the terminal; --json and --out have all.
_SHOWN = 5


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
    from distill.evaluation import retention
    from distill.model_loading import load_model
    from students.student import tower_params

    names = _names_by_split(asked)
    model = load_model(asked.model, device=asked.device)
    metrics = _metrics(asked, model, console)
    reference = _reference(asked, console)
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
        values["audit"] = _audit(asked, model, names, console)
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(values, indent=2))
    left_out = any(value for name, value in metrics.items() if name.endswith("skipped"))
    return Outcome(values=values, exit_code=3 if left_out else 0)


def _metrics(asked: Evaluate, model: "ClipModel", console: Console) -> dict[str, float]:
    """Evaluate on every split, then run the tests on each."""
    from distill.evaluation.splits import evaluate_splits
    from distill.evaluation.suite import Suite, run_suite
    from distill.evaluation.zero_shot import named_templates

    splits = _named_splits(asked.on)
    classes = None if asked.classes is None else read_class_names(asked.classes)
    sentences = _sentences(asked, classes, splits)
    metrics = evaluate_splits(
        model,
        splits,
        templates=asked.templates,
        sentences=sentences,
        classes=classes,
        captions_from=asked.captions_from,
        limit=asked.limit,
    )
    teacher = _teacher(asked) if "agreement" in asked.tests else None
    for split, source in splits.items():
        suite = Suite(
            source=source,
            classes=classes,
            templates=named_templates(asked.templates),
            sentences=sentences,
            severities=asked.severities,
            resolutions=asked.resolutions,
            sizes=asked.sizes,
            teacher=teacher,
            probe_train=asked.probe_train,
            limit=asked.limit,
        )
        if asked.tests:
            console.print(f"[dim]{', '.join(asked.tests)} {split and f'on {split}'}[/]")
        found = run_suite(model, suite, asked.tests)
        metrics |= {(f"{split}/" if split else "") + name: x for name, x in found.items()}
    return metrics


def _sentences(
    asked: Evaluate, classes: Sequence[str] | None, splits: dict[str, str]
) -> dict[str, list[str]] | None:
    """Read CuPL's file and the hierarchy; a class has the sentences of both."""
    from distill.evaluation.prompt_files import hierarchy_sentences, read_hierarchy, read_sentences
    from distill.evaluation.suite import class_names

    found = {} if asked.prompts is None else read_sentences(asked.prompts)
    if asked.hierarchy is not None:
        parents = read_hierarchy(asked.hierarchy)
        names = classes or sorted({n for source in splits.values() for n in class_names(source)})
        for name, texts in hierarchy_sentences(names, parents).items():
            found[name] = [*found.get(name, []), *texts]
    return found or None


def _teacher(asked: Evaluate) -> "ClipModel | None":
    from distill.model_loading import load_model

    if asked.against is None or asked.against.endswith(".json"):
        return None
    return load_model(asked.against, device=asked.device)


def _names_by_split(asked: Evaluate) -> dict[str, list[str]]:
    """Return the names that each split's pictures are put under; nothing where none asks."""
    from distill.evaluation.suite import class_names
    from distill.evaluation.zero_shot import names_to_choose

    if not (asked.alike or asked.leaks_from is not None or asked.out is not None):
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


def _audit(
    asked: Evaluate, model: "ClipModel", names: dict[str, list[str]], console: Console
) -> dict[str, Any]:
    """List class names that are hardly told apart, and pictures that were trained on."""
    from distill.evaluation.class_audit import alike_classes
    from distill.evaluation.zero_shot import named_templates

    found: dict[str, Any] = {}
    templates, every = named_templates(asked.templates), {n for own in names.values() for n in own}
    sentences = _sentences(asked, sorted(every), {}) if every else None
    for split, source in _named_splits(asked.on).items():
        own = names[split]
        rows = {"templates": templates, "sentences": sentences}
        alike = alike_classes(model, own, **rows) if own else []
        console.print(
            f"{split or source}: {len(alike)} pairs of alike class names", highlight=False
        )
        for pair in alike[:_SHOWN]:
            console.print(f"  {pair.first!r} and {pair.second!r}: {pair.cosine:.3f}")
        found[split] = {"alike": [asdict(pair) for pair in alike]}
        if asked.leaks_from is not None:
            seen = _leaks(asked.leaks_from, model, source, asked.limit, console)
            found[split]["leaks"] = seen
    return found


def _leaks(
    train: str, model: "ClipModel", source: str, limit: int | None, console: Console
) -> list[dict[str, Any]]:
    from distill.evaluation.class_audit import leaks

    seen = leaks(model, train, source, limit=limit)
    equal = sum(leak.same_bytes for leak in seen)
    console.print(
        f"{source}: {equal} pictures that are in {train}, {len(seen) - equal} more that nearly are",
        highlight=False,
    )
    for leak in seen[:_SHOWN]:
        console.print(f"  {leak.test_key} is {leak.train_key}: {leak.cosine:.3f}")
    return [asdict(leak) for leak in seen]


def _named_splits(sources: Sequence[str]) -> dict[str, str]:
    """Read `NAME=SHARDS` or bare shards; several need names of their own."""
    splits: dict[str, str] = {}
    for text in sources:
        name, equals, source = text.partition("=")
        name, source = (name, source) if equals else ("", text)
        if name in splits:
            raise ValueError(
                f"--on names the split {name!r} twice; with several sources write NAME=SHARDS"
            )
        splits[name] = source
    return splits


def _reference(asked: Evaluate, console: Console) -> dict[str, float]:
    if asked.against is None:
        return {}
    teacher = _teacher(asked)
    if teacher is not None:
        # What compares the student with its teacher is nothing to compare the teacher by, and a
        # teacher is not shipped: it may refuse a size that the student runs at.
        tests = tuple(name for name in asked.tests if name not in ("agreement", "sizes"))
        return _metrics(replace(asked, tests=tests), teacher, console)
    try:
        return json.loads(Path(asked.against).read_text())["metrics"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--against {asked.against} holds no metrics ({error!r}); write it with `distill "
            f"evaluate TEACHER --on ... --out {asked.against}`"
        ) from error
