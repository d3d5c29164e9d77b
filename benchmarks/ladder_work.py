"""What the teachers' part of a reinforced dataset cost, in training steps of the small student.

Counted in multiplications, which are the same on every machine, not in seconds. How the teachers
were trained is not counted: they are there before anyone distils.
"""

from ladder_world import World

from distill.recipes.demo import SPECS, demo
from reinforced_data import open_dataset
from students import Student, build_student, load_student, profile


def teaching_steps(world: World) -> float:
    """Divide the teachers' work by a step's: of a picture every view, and one text."""
    data = open_dataset(world.store)
    teachers = [load_student(config.out) for config in world.teachers]
    wrote = sum(_macs(teacher, views=data.num_views) for teacher in teachers) * data.num_samples
    return wrote / step_work(world)


def step_work(world: World) -> float:
    """Multiplications of a training step, in millions: three forward passes of its batch.

    The backward pass counts as two.
    """
    recipe, tokenizer = demo(), load_student(world.teacher_folder).tokenizer
    learner = build_student(SPECS[recipe.student.name], tokenizer=tokenizer)
    return 3 * recipe.data.batch_size * _macs(learner, views=1)


def _macs(model: Student, views: int) -> float:
    found = profile(model, warmup=0, repeats=1)
    return views * found.of("image").macs + found.of("text").macs
