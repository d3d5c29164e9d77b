"""The page of recipes, read from their docstrings: a recipe's own, and its module's."""

import ast

from markdown_text import ROOT

RECIPES = ROOT / "distill" / "recipes"


def names() -> list[str]:
    """List the recipes in the order of `RECIPES`."""
    tree = ast.parse((RECIPES / "__init__.py").read_text())
    (table,) = (node.value for node in tree.body if isinstance(node, ast.AnnAssign))
    assert isinstance(table, ast.Dict)
    return [ast.literal_eval(key) for key in table.keys if key is not None]


def as_markdown() -> str:
    """Write a section a module: its text, and what each of its recipes is."""
    wanted, parts = set(names()), []
    for path in sorted(RECIPES.glob("*.py")):
        tree = ast.parse(path.read_text())
        found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in wanted]
        if not found:
            continue
        first, _, rest = (ast.get_docstring(tree) or "").partition("\n")
        parts += [f"## {' · '.join(node.name for node in found)}", first, rest.strip()]
        parts += [f"**{node.name}.** {ast.get_docstring(node)}" for node in found]
    return "\n\n".join(parts) + "\n"
