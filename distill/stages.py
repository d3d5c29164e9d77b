"""Progressive compression: a student is the next smaller one's donor (TinyCLIP, arXiv:2309.12314).

The paper goes from 100 to 75, 50 and 25 % of the teacher's weights, since too many taken away at
once are hard to make up for. A stage is a run like any other, in a folder of its own, so that
what is stopped goes on inside of a stage or between two.
"""

from dataclasses import replace
from pathlib import Path

from distill.config import RunConfig


def stage_configs(config: RunConfig) -> list[RunConfig]:
    """Spell a run out as its stages, the run itself last; one without stages is alone.

    Raises:
        ValueError: stages without a folder, or beside a text tower from elsewhere.
    """
    student = config.student
    if not student.stages:
        return [config]
    if not config.out:
        raise ValueError("student.stages are runs of their own and need a folder: give out")
    if student.text_from:
        raise ValueError(
            f"student.text_from={student.text_from!r} and student.stages: each stage gives the "
            "next one both towers; give one of the two"
        )
    found, donor = [], student.donor
    for number, name in enumerate((*student.stages, student.name), 1):
        last = number > len(student.stages)
        folder = f"{config.out}/stages/{number}-{Path(name).name}"
        stage = replace(student, name=name, donor=donor, stages=())
        found.append(replace(config, student=stage, out=config.out if last else folder))
        donor = folder
    return found
