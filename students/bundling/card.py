"""The model card of a bundle: where the student comes from, what it scores, what it costs.

Left out: any judgement. A licence that limits use is pointed at; what it allows is for its reader.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

# Words that licences which limit use have in their names.
_LIMITED = re.compile(r"amlr|research|non-?commercial|\bnc\b|no-?derivatives|\bnd\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A model that the student learned or inherited from.

    Attributes:
        name: what `load_teacher` takes.
        role: what the student has of it: "teacher", "donor", "locked image encoder", "captioner".
        licence: of its weights; None where nobody looked.
    """

    name: str
    role: str = "teacher"
    licence: str | None = None

    @property
    def limited(self) -> bool:
        """Whether the licence's name speaks of limits, such as research only."""
        return bool(self.licence and _LIMITED.search(self.licence))


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the card says besides what the files themselves say; an empty part is left out.

    Attributes:
        origins: teachers, donors, locked encoders and captioners.
        data: (what, which one), as ("reinforced dataset", "cc3m-dr").
        recipe: (setting, value).
        metrics: `split/metric` -> fraction.
        retention: student / teacher, same keys.
        licence: the student's own, as Hugging Face writes it.
    """

    origins: Sequence[Origin] = ()
    data: Sequence[tuple[str, str]] = ()
    recipe: Sequence[tuple[str, str]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    retention: Mapping[str, float | None] = field(default_factory=dict)
    licence: str = ""


def render_card(facts: CardFacts, metadata: Mapping[str, Any], **more: Any) -> str:
    """Write the card as Markdown.

    Args:
        facts: what its training left behind.
        metadata: the bundle's `metadata.json`.
        more: what else the template asks for.
    """
    limited = [origin for origin in facts.origins if origin.limited]
    return template("card.md.j2").render(card=facts, facts=metadata, limited=limited, **more)


def template(name: str) -> Any:
    """A template of this package; what is printed cannot become markup."""
    made = Environment(
        loader=PackageLoader("students.bundling", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"md": _escaped, "code": _code, "mb": lambda size: f"{size / 1e6:.1f} MB"}
    return made.get_template(name)


def _escaped(value: object) -> str:
    """Names and labels may be anyone's: no line, no markup, no table cell ends inside one."""
    flat = " ".join(str(value).split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", flat)


def _code(value: object) -> str:
    return " ".join(str(value).split()).replace("`", "'")
