"""What the teachers' part of a reinforced dataset cost, in training steps of the small student.

Counted in multiplications, which are the same on every machine, not in seconds. How the teachers
were trained is not counted: they are there before anyone distils.
"""

from ladder_world import World

from distill.recipes.demo import SPECS, demo
from reinforced_data import open_dataset
from students import Student, build_student, load_student, profile


def teaching_steps(world: World) -> float:
    """Divide the teachers' forward passes, a picture's every view and one text, by a step's work.

    A training step is three forward passes of its batch: the backward pass counts as two.
    """
    data = open_dataset(world.store)
    teachers = [load_student(config.out) for config in world.teachers]
    wrote = sum(_macs(teacher, views=data.num_views) for teacher in teachers) * data.num_samples
    recipe = demo()
    learner = build_student(SPECS[recipe.student.name], tokenizer=teachers[0].tokenizer)
    return wrote / (3 * recipe.data.batch_size * _macs(learner, views=1))


def _macs(model: Student, views: int) -> float:
    found = profile(model, warmup=0, repeats=1)
    return views * found.of("image").macs + found.of("text").macs
