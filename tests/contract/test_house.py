"""The house keeps its own rules: sizes, names, packages."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("teachers", "students", "reinforced_data", "distill")
FILES = sorted(
    path for folder in (*PACKAGES, "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
BANNED = {"utils", "common", "helpers", "misc", "manager"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # The body after its docstring: documentation is not what makes a function long.
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            kernel = any(ast.unparse(by) == "triton.jit" for by in node.decorator_list)
            assert lines <= (120 if kernel else 40), f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_and_docstrings(path):
    assert path.stem not in BANNED
    assert ast.get_docstring(ast.parse(path.read_text())), "a module says what it is"


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_are_ours_and_export_what_they_say(name):
    package = importlib.import_module(name)
    assert Path(package.__file__ or "").parent == ROOT / name
    for public in package.__all__:
        assert hasattr(package, public)
        # A package loads its names when they are asked for; a module of that name would hide one.
        found = getattr(package, public)
        assert not inspect.ismodule(found) or found.__name__ == f"{name}.{public}"
        assert inspect.ismodule(found) or not (ROOT / name / f"{public}.py").exists()
    assert (ROOT / name / "py.typed").is_file()


def test_a_module_asked_of_its_package_does_not_load_the_others():
    """Modules of a package ask each other this way, also before the package is loaded."""
    code = "import sys; from reinforced_data import view_policy; from teachers import suggestions; "
    code += "assert not {'reinforced_data.api', 'teachers.api'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_api_that_design_promises():
    from distill import Objective, evaluate, losses, train
    from distill.ops import Embeddings, image_text_loss
    from reinforced_data import audit, open_dataset, reinforce
    from students import build_student, export, load_student, profile
    from teachers import Ensemble, load_teacher

    promised = (
        *(Objective, evaluate, losses.FeatureLoss, train, Embeddings, image_text_loss, audit),
        *(open_dataset, reinforce, build_student, export, load_student, profile, Ensemble),
        load_teacher,
    )
    assert all(callable(thing) for thing in promised)
