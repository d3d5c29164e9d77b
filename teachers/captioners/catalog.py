"""The table of captioners: a name and the function that sets one up.

To add one: a module in this folder, a function `settings -> Captioner` that imports it, and a line
in `CAPTIONERS`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from teachers.captioners.settings import CaptionerSettings
from teachers.captioning import Captioner
from teachers.suggestions import unknown_name


@dataclass(frozen=True, kw_only=True)
class CaptionerEntry:
    """One line of the table: what it is, and how it is set up."""

    summary: str
    load: Callable[[CaptionerSettings], Captioner]


def _rules(settings: CaptionerSettings) -> Captioner:
    from teachers.captioners.rules import RuleCaptioner

    refuse_settings("rules", settings, used=())
    return RuleCaptioner()


CAPTIONERS: dict[str, CaptionerEntry] = {
    "rules": CaptionerEntry(summary="rewrites the source's texts by rules, offline", load=_rules),
}


def load_captioner(name: str, settings: CaptionerSettings = CaptionerSettings()) -> Captioner:  # noqa: B008 - frozen
    """Set a captioner up by its name in `CAPTIONERS`.

    Raises:
        ValueError: an unknown name, or a setting that this captioner has no use for.
    """
    if name not in CAPTIONERS:
        raise unknown_name("captioner", name, CAPTIONERS)
    return CAPTIONERS[name].load(settings)


def refuse_settings(name: str, settings: CaptionerSettings, *, used: tuple[str, ...]) -> None:
    """Refuse the settings that a captioner would ignore.

    Raises:
        ValueError: one is given that is not in `used`.
    """
    given = [field for field, value in asdict(settings).items() if value is not None]
    useless = [field for field in given if field not in used]
    if useless:
        takes = ", ".join(used) or "none"
        raise ValueError(
            f"captioner {name!r} has no use for {', '.join(useless)}; the settings it takes: "
            f"{takes}"
        )
