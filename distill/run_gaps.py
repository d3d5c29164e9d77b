"""What a report of runs could show and does not: said on the page, with what would bring it."""

from collections.abc import Mapping

from distill.report import ReportData


def what_is_missing(data: ReportData, known: Mapping[str, str]) -> list[tuple[str, str]]:
    """List (what, why and how it gets there); `known` are reasons that were met on the way."""
    found = dict(known) | _evaluated(data)
    drawn = {curve.name for curve in data.curves}
    quiet = [row.name for row in data.rows if row.name not in drawn and row.steps]
    if quiet:
        found["Learning curves"] = f"there is no log of {', '.join(quiet)}"
    if data.curves and not any("/" in curve.series for curve in data.curves):
        found["Validation scores over the steps"] = (
            "the runs were evaluated once, at the end: --evaluate-every STEPS of distill train"
        )
    if not data.ladders:
        found["Ladder"] = "no table was given: --ladders FILE, written by benchmarks/ladder.py"
    for ladder in data.ladders:
        if not ladder.of("equal compute"):
            found[f"Ladder {ladder.name} at equal compute"] = (
                "no row of the table has the work of another instead of its steps (…-same-work)"
            )
    if len({each.image.latency_ms for each in data.measured if each.image}) < 2:
        found["Time and size against score"] = (
            "at most one form of these runs was measured: --exports FOLDER of distill export, "
            "--profiles FILE of distill profile RUN --files FOLDER --out FILE"
        )
    if any(each.rounded for each in data.measured) and not any(e.metric for e in data.measured):
        found["Scores of rounded files"] = (
            "they were not evaluated: distill export RUN OUT --metric-on SHARDS"
        )
    if not data.exports:
        found["Exported files"] = "no export was given: --exports FOLDER"
    if not data.skipped:
        found["Samples left out in training"] = "there were none"
    return list(found.items())


def _evaluated(data: ReportData) -> dict[str, str]:
    """What files of `distill evaluate` would bring, or a teacher's run."""
    found = {}
    if not any(row.role == "teacher" for row in data.rows):
        found["Kept shares"] = (
            "no teacher was given: --teachers RUN, or --evaluations FILE of any other model"
        )
    elif not any(row.retention for row in data.rows):
        found["Kept shares"] = (
            "teacher and students have no score in common: evaluate both on splits of one name"
        )
    if not data.beyond:
        found["Beyond one number"] = (
            "no file has tests: --evaluations FILE of distill evaluate --tests ... --out FILE"
        )
    return found
