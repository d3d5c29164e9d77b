"""What exported files are measured by: the evaluator's scores on a source of the user's."""

from itertools import islice

from distill.evaluation import evaluate
from distill.evaluation.label_checks import check_first_labels
from reinforced_data.source import open_source
from students.exporters.judging import Metric
from teachers.clip_model import ClipModel
from teachers.suggestions import unknown_name

METRICS = ("top1", "image_to_text_r1", "text_to_image_r1")


def metric_on(source: str, name: str | None = None, *, limit: int | None = None) -> Metric:
    """Return a function from a model to one of its scores.

    Args:
        source: shards; see `evaluate`.
        name: one of `METRICS`; by default zero-shot top1 where there are labels, else
            image_to_text_r1.
        limit: stop after so many samples.

    Raises:
        ValueError: an unknown name, a source that cannot be read, or labels that are no names.
    """
    if name is None:
        labelled = any(sample.label is not None for sample in islice(open_source(source), 1))
        name = "top1" if labelled else "image_to_text_r1"
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    if name == "top1":
        check_first_labels(source)  # exporting takes minutes, too
    task = "zero_shot" if name == "top1" else "retrieval"

    def measure(model: ClipModel) -> float:
        return evaluate(model, source, tasks=(task,), limit=limit)[name]

    measure.__name__ = name
    return measure
