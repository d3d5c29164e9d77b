"""The classes that are taken for each other most, as a matrix: a row is, a column is taken for."""

from markupsafe import Markup

from distill.report.data import ConfusionMatrix
from distill.report.svg import WIDTH, add, drawing, markup, shortened, text_width

_TOP, _LONGEST_NAME_PX = 26, 190
# Names go to the drawing's edge: what the guess at their width may be wrong by.
_SLACK = 1.25


def confusion_chart(matrix: ConfusionMatrix) -> Markup:
    """Draw shares as percent in shaded cells; columns carry the rows' numbers."""
    names = [f"{place} {name}" for place, name in enumerate(matrix.classes, 1)]
    left = min(
        _LONGEST_NAME_PX, _SLACK * max((text_width(name) for name in names), default=0.0) + 14
    )
    cell = min(30.0, (WIDTH - left) / max(1, len(names)))
    root = drawing(_TOP + cell * len(names) + 4, "which class is taken for which")
    for i, name in enumerate(names):
        middle = cell * (i + 0.5)
        text = shortened(name, (left - 14) / _SLACK)
        add(root, "text", text, class_="name end", x=left - 8, y=_TOP + middle + 4)
        add(root, "text", str(i + 1), class_="tick mid", x=left + middle, y=_TOP - 8)
        for j, share in enumerate(matrix.shares[i]):
            x, y = left + cell * j, _TOP + cell * i
            # The right answers are of another colour: they are not what is looked for.
            style = "cell right" if i == j else "cell"
            box = add(
                root, "rect", class_=style, x=x + 1, y=y + 1, width=cell - 2, height=cell - 2, rx=3,
                fill_opacity=f"{0.05 + 0.45 * share:.2f}",
            )  # fmt: skip
            said = "is known as itself" if i == j else f"is taken for {matrix.classes[j]}"
            add(box, "title", f"{matrix.classes[i]} {said}: {100 * share:.0f} %")
            if share >= 0.005:
                said = f"{100 * share:.0f}"
                tight = " tight" if len(said) > 2 else ""
                add(
                    root, "text", said, class_=f"tick mid on{tight}",
                    x=x + cell / 2, y=y + cell / 2 + 4,
                )  # fmt: skip
    return markup(root)
