"""`distill train RECIPE [--dotted.override VALUE ...]`: the recipe is the only other argument."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse

if TYPE_CHECKING:
    from distill.config import RunConfig
    from distill.training import TrainResult
    from students.tokens.policy import TokenPolicy

_USAGE = """usage: distill train RECIPE [--data.store FOLDER] [--out FOLDER] [OVERRIDES] [--json]
       distill train --students A.json B.json ... [--json]

The same command resumes. distill list recipes prints the recipes, distill show RECIPE the values
of one. Every field can be overridden by its dotted name; distill train RECIPE --help lists them.
More phases of tokens (docs/tokens.md), each: --tokens-then image=resize,image-keep=0.5,until=0.97
Several processes: accelerate launch --config_file $(distill show accelerate ddp) \\
    -m distill train RECIPE ...

--students trains several at once: each picture is read once. A file is a whole configuration with
its own "out", as distill show RECIPE --json prints it and as a run's config.json is.
"""


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Resolve the recipe, train, print."""
    if arguments and arguments[0] == "--students":
        return _several(arguments[1:], console)
    if not arguments or arguments[0].startswith("-"):
        if not {"-h", "--help"}.intersection(arguments):
            raise ValueError("which recipe? distill train RECIPE ...; distill list recipes")
        print(_USAGE)
        return Outcome()
    from distill.config import RunConfig
    from distill.recipes import find_recipe
    from distill.starting import train_from_config

    name, *overrides = arguments
    overrides, then = _token_phases(overrides)
    config = parse(RunConfig, f"train {name}", overrides, default=find_recipe(name))
    config = replace(config, tokens_then=then) if then else config
    _check(config)
    result = train_from_config(config, show=not console.quiet)
    _print(config, result, console)
    return Outcome(values=result.as_json(), exit_code=3 if result.refused else 0)


def _token_phases(arguments: Sequence[str]) -> "tuple[list[str], tuple[TokenPolicy, ...]]":
    """Take each `--tokens-then NAME=VALUE,...` out; a list of unknown length is not tyro's."""
    from students.tokens.policy import TokenPolicy

    rest, found = list[str](), list[TokenPolicy]()
    waiting = iter(arguments)
    for argument in waiting:
        name, _, value = argument.partition("=")
        if name not in ("--tokens-then", "--tokens_then"):
            rest.append(argument)
            continue
        pairs = [pair.partition("=") for pair in (value or next(waiting, "")).split(",")]
        if not all(name and value for name, _, value in pairs):
            raise ValueError(
                "--tokens-then takes a policy as NAME=VALUE,..., such as "
                "image=resize,image-keep=0.5,until=0.97; give it once for each phase"
            )
        given = [word for name, _, value in pairs for word in (f"--{name}", value)]
        found.append(parse(TokenPolicy, "train RECIPE --tokens-then", given))
    return rest, tuple(found)


def _several(files: Sequence[str], console: Console) -> Outcome:
    """Train what each file configures, from one pass over the store."""
    if not files or any(file.startswith("-") for file in files):
        raise ValueError(
            "--students takes two or more files and nothing else; change values in the files"
        )
    configs = [_read(Path(file)) for file in files]
    for config in configs:
        _check(config)
    from distill.starting import train_several

    results = train_several(configs, show=not console.quiet)
    for config, result in zip(configs, results, strict=True):
        _print(config, result, console)
    values = {config.out: one.as_json() for config, one in zip(configs, results, strict=True)}
    refused = any(result.refused for result in results)
    return Outcome(values={"runs": values}, exit_code=3 if refused else 0)


def _read(path: Path) -> "RunConfig":
    """A whole configuration from a file."""
    from distill.config import RunConfig

    try:
        return RunConfig.from_json(json.loads(path.read_text()))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is no whole configuration ({type(error).__name__}: {error}): write one with "
            f"`distill show RECIPE --json > {path}`, or take a run's config.json"
        ) from error


def _check(config: "RunConfig") -> None:
    """Say early what a run cannot do without."""
    if not config.data.store:
        raise ValueError("which reinforced dataset? Add --data.store FOLDER (distill reinforce)")
    if not config.out:
        raise ValueError("where to? Add --out FOLDER; the same command resumes from there")
    trained = config.student.text_from or config.student.donor or "/" in config.student.name
    if config.lock.tower != "none" and not trained:
        raise ValueError(
            f"--lock.tower {config.lock.tower} needs a trained tower: add --student.text-from "
            "FOLDER, --student.donor TEACHER, or a student with weights"
        )


def _print(config: "RunConfig", result: "TrainResult", console: Console) -> None:
    console.print(f"{result.steps} steps in {result.seconds:.1f} s; student in {config.out}")
    for name, value in result.metrics.items():
        share = result.retention.get(name) if result.retention else None
        beside = "" if share is None else f"  retention {share:.3f}"
        console.print(f"  {name:40} {value:.4f}{beside}", highlight=False)
    if result.refused:
        console.print(f"  left out: {json.dumps(result.refused)}")
