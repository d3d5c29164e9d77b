"""What clip-distill requires, by its own metadata, and what of it is not there."""

from importlib import metadata

from packaging.requirements import Requirement

DISTRIBUTION = "clip-distill"


def requirements(extra: str = "") -> list[Requirement]:
    """Requirements of one extra that apply to this machine; of none: the base installation's."""
    every = map(Requirement, metadata.requires(DISTRIBUTION) or [])
    return [wanted for wanted in every if _belongs(wanted, extra)]


def unmet(wanted: Requirement) -> str:
    """What is wrong: "torch missing" or "torch 2.9 (<2.15,>=2.11 wanted)"; empty if met."""
    found = version(wanted.name)
    if found is None:
        return f"{wanted.name} missing"
    if wanted.specifier.contains(found, prereleases=True):
        return ""
    return f"{wanted.name} {found} ({wanted.specifier} wanted)"


def conflicts() -> list[str]:
    """What installed packages of ours require and do not get: "torchvision: torch 2.9 (==...)"."""
    found = []
    for name in {wanted.name for wanted in requirements()}:
        try:
            wanted = map(Requirement, metadata.requires(name) or [])
        except metadata.PackageNotFoundError:
            continue
        lacks = filter(None, (unmet(each) for each in wanted if _belongs(each, "")))
        found += [f"{name}: {lack}" for lack in lacks]
    return sorted(found)


def version(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _belongs(wanted: Requirement, extra: str) -> bool:
    if wanted.marker is None:
        return not extra
    always = wanted.marker.evaluate({"extra": ""})
    return always if not extra else wanted.marker.evaluate({"extra": extra}) and not always
