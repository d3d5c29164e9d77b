"""The table of verbs. Each function imports its own verb, so that no verb loads the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from distill.cli.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One line of help and the function behind it."""

    summary: str
    run: Callable[[Sequence[str], Console], Outcome]


def _demo(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.demo import run

    return run(arguments, console)


def _pack(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.pack import run

    return run(arguments, console)


def _plan(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.plan import run

    return run(arguments, console)


def _reinforce(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.data import run_reinforce

    return run_reinforce(arguments, console)


def _caption(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.caption import run

    return run(arguments, console)


def _import(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.importing import run

    return run(arguments, console)


def _score(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.score import run

    return run(arguments, console)


def _audit(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.audit import run

    return run(arguments, console)


def _inherit(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.inherit import run

    return run(arguments, console)


def _train(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.train import run

    return run(arguments, console)


def _calibrate(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.calibrate import run

    return run(arguments, console)


def _evaluate(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.evaluating import run

    return run(arguments, console)


def _export(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.export import run

    return run(arguments, console)


def _bundle(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.bundle import run_bundle

    return run_bundle(arguments, console)


def _push(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.bundle import run_push

    return run_push(arguments, console)


def _profile(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.profile import run

    return run(arguments, console)


def _report(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.report import run

    return run(arguments, console)


def _fit_scaling(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.scaling import run

    return run(arguments, console)


def _merge(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.merge import run

    return run(arguments, console)


def _list(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.catalogs import run_list

    return run_list(arguments, console)


def _show(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.catalogs import run_show

    return run_show(arguments, console)


def _status(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.status import run_status

    return run_status(arguments, console)


def _doctor(arguments: Sequence[str], console: Console) -> Outcome:
    from distill.cli.catalogs import run_doctor

    return run_doctor(arguments, console)


VERBS: dict[str, Verb] = {
    "demo": Verb(summary="the whole job on embedded pictures, in minutes", run=_demo),
    "pack": Verb(summary="make WebDataset shards from folders, tables and datasets", run=_pack),
    "plan": Verb(summary="what a reinforced dataset will cost: time, bytes, money", run=_plan),
    "reinforce": Verb(summary="write the teachers' knowledge down", run=_reinforce),
    "caption": Verb(summary="write captions beside the source's own", run=_caption),
    "import": Verb(summary="make a reinforced dataset of a published one", run=_import),
    "score": Verb(summary="add a number a sample to a reinforced dataset", run=_score),
    "audit": Verb(summary="check a reinforced dataset", run=_audit),
    "inherit": Verb(summary="start a student from a donor's weights", run=_inherit),
    "train": Verb(summary="train a student by a recipe", run=_train),
    "calibrate": Verb(summary="find each teacher's scale by short trainings", run=_calibrate),
    "evaluate": Verb(summary="zero-shot and retrieval scores of any model", run=_evaluate),
    "export": Verb(summary="write files that a phone or server runs, checked", run=_export),
    "bundle": Verb(summary="an export with all that an app's team needs", run=_bundle),
    "push": Verb(summary="put a student or bundle on the hub (dry run first)", run=_push),
    "profile": Verb(summary="how big and how fast a student is", run=_profile),
    "report": Verb(summary="one page of finished runs", run=_report),
    "fit-scaling": Verb(summary="what a longer run would bring", run=_fit_scaling),
    "merge": Verb(summary="one student out of several, chosen on held-out data", run=_merge),
    "list": Verb(summary="teachers, students, recipes", run=_list),
    "show": Verb(summary="a recipe, resolved, or an accelerate configuration's path", run=_show),
    "status": Verb(summary="how far a store or a training run has come", run=_status),
    "doctor": Verb(summary="what this machine has and lacks", run=_doctor),
}
