"""The table of captioners: a name, what may follow it, and the function that sets one up.

To add one: a module in this folder, a function `(what follows the colon, settings) -> Captioner`
that imports it, and a line in `CAPTIONERS`.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from teachers.captioners.settings import CaptionerSettings
from teachers.captioning import Captioner
from teachers.suggestions import unknown_name

if TYPE_CHECKING:
    from teachers.captioners.prompts import TextModel

_SAMPLING = ("temperature", "top_p", "max_tokens")
_WEIGHTS = ("precision", "device")
# What a folder may follow.
_FOLDERS = ("coca", "transformers", "local-dir")
# The settings that decide how a source of texts writes, and those that say where it runs.
_USED: dict[str, tuple[str, ...]] = {
    "rules": (),
    "coca": (*_SAMPLING, *_WEIGHTS),
    "transformers": (*_SAMPLING, *_WEIGHTS),
    "endpoint": (*_SAMPLING, "concurrency"),
}


@dataclass(frozen=True, kw_only=True)
class CaptionerEntry:
    """One line of the table: how it is asked for, what it is, and how it is set up."""

    form: str
    summary: str
    load: Callable[[str, CaptionerSettings], Captioner]


def _rules(what: str, settings: CaptionerSettings) -> Captioner:
    from teachers.captioners.rules import RuleCaptioner

    if what:
        raise ValueError(f"captioner 'rules' takes nothing after its name, got {what!r}")
    refuse_settings("rules", settings, used=_USED["rules"])
    return RuleCaptioner()


def _coca(what: str, settings: CaptionerSettings) -> Captioner:
    from teachers.captioners.coca import COCA_SAMPLING, coca_captioner

    refuse_settings("coca", settings, used=_USED["coca"])
    sampling = replace(COCA_SAMPLING, **_given(settings, _SAMPLING))
    return coca_captioner(what, sampling=sampling, **_given(settings, _WEIGHTS))


def _prompted(name: str) -> Callable[[str, CaptionerSettings], Captioner]:
    def load(what: str, settings: CaptionerSettings) -> Captioner:
        from teachers.captioners.prompts import PromptedCaptioner

        refuse_settings(name, settings, used=("prompt", *_USED[name]))
        return PromptedCaptioner(_MODELS[name](what, settings), prompt=settings.prompt)

    return load


def _rewrite(what: str, settings: CaptionerSettings) -> Captioner:
    from teachers.captioners.few_shot import EXAMPLES, read_examples
    from teachers.captioners.rewriting import LACLIP_SAMPLING, RewriteCaptioner

    used = ("prompt", "examples", *_USED[_model_name(what, f"rewrite:{what}")])
    refuse_settings("rewrite", settings, used=used)
    examples = read_examples(settings.examples) if settings.examples else EXAMPLES
    published = {field: getattr(LACLIP_SAMPLING, field) for field in _SAMPLING}
    settings = replace(settings, **{**published, **_given(settings, _SAMPLING)})
    return RewriteCaptioner(
        _model(what, settings),
        examples=examples,
        shots=min(3, len(examples)),
        prompt=settings.prompt,
    )


def _fuse(what: str, settings: CaptionerSettings) -> Captioner:
    from teachers.captioners.fusing import FusionCaptioner
    from teachers.captioners.stored import StoredCaptions

    visual, _, language = what.rpartition(",")
    if not visual:
        raise ValueError(
            f"fuse:{what} needs two parts, as in fuse:coca:coca_ViT-L-14/TAG,"
            "transformers:Qwen/Qwen2.5-1.5B-Instruct; or fuse:set:NAME,... for a stored caption set"
        )
    used = {*_USED[_model_name(language, f"fuse:{what}")]}
    # Prompt and sampling are of the fusing: the captioner has its own. Both are told where to run.
    its = {*_USED.get(visual.partition(":")[0], ())} - {*_SAMPLING}
    refuse_settings("fuse", settings, used=("prompt", *sorted(used | its)))
    kind, _, name = visual.partition(":")
    captioner = (
        StoredCaptions(name)
        if kind == "set"
        else load_captioner(visual, CaptionerSettings(**_given(settings, tuple(its))))
    )
    return FusionCaptioner(_model(language, settings), captioner, prompt=settings.prompt)


def _transformers(what: str, settings: CaptionerSettings) -> "TextModel":
    from teachers.captioners.sampling import Sampling
    from teachers.captioners.transformers_loading import load_transformers

    sampling = Sampling(**_given(settings, _SAMPLING))
    return load_transformers(what, sampling=sampling, **_given(settings, _WEIGHTS))


def _endpoint(what: str, settings: CaptionerSettings) -> "TextModel":
    from teachers.captioners.endpoint import EndpointModel
    from teachers.captioners.sampling import Sampling

    url, _, model = what.rpartition("#")
    if not url:
        raise ValueError(f"endpoint:{what} names no model: endpoint:URL#MODEL")
    sampling = Sampling(**_given(settings, _SAMPLING))
    return EndpointModel(url, model, sampling=sampling, **_given(settings, ("concurrency",)))


# Sources of models that answer prompts, for `rewrite`, `fuse`, and captioners of their own.
_MODELS: dict[str, Callable[[str, CaptionerSettings], "TextModel"]] = {
    "transformers": _transformers,
    "endpoint": _endpoint,
}

CAPTIONERS: dict[str, CaptionerEntry] = {
    "rules": CaptionerEntry(
        form="rules", summary="rewrites the source's texts by rules, offline", load=_rules
    ),
    "coca": CaptionerEntry(
        form="coca:MODEL/TAG",
        summary="open_clip's CoCa looks at the pictures (or coca:FOLDER, coca:hf-hub:ID)",
        load=_coca,
    ),
    "transformers": CaptionerEntry(
        form="transformers:ID_OR_FOLDER",
        summary="an image-to-text model of the transformers library looks at the pictures",
        load=_prompted("transformers"),
    ),
    "endpoint": CaptionerEntry(
        form="endpoint:URL#MODEL",
        summary="a server with OpenAI's chat completions looks at the pictures (vLLM, Ollama, ...)",
        load=_prompted("endpoint"),
    ),
    "rewrite": CaptionerEntry(
        form="rewrite:LANGUAGE",
        summary="a language model (transformers:ID, endpoint:URL#MODEL) rewrites texts (LaCLIP)",
        load=_rewrite,
    ),
    "fuse": CaptionerEntry(
        form="fuse:VISUAL,LANGUAGE",
        summary="a language model fuses texts with a captioner's, or a stored set's "
        "(fuse:set:NAME,LANGUAGE): VeCLIP, CapsFusion",
        load=_fuse,
    ),
}


def load_captioner(spec: str, settings: CaptionerSettings = CaptionerSettings()) -> Captioner:  # noqa: B008 - frozen
    """Set a captioner up.

    Args:
        spec: a name in `CAPTIONERS`, and after a colon what it needs: "rules",
            "coca:coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k",
            "rewrite:endpoint:http://localhost:8000/v1#Qwen/Qwen2.5-7B-Instruct".
        settings: how it writes.

    Raises:
        ValueError: an unknown name, nothing after the colon where something is needed, or a
            setting that this captioner has no use for.
    """
    name, _, what = spec.partition(":")
    if name not in CAPTIONERS:
        raise unknown_name("captioner", name, CAPTIONERS)
    entry = CAPTIONERS[name]
    if ":" in entry.form and not what:
        raise ValueError(f"captioner {name!r} does not say which: {entry.form} ({entry.summary})")
    return entry.load(what, settings)


def absolute_captioner(spec: str) -> str:
    """Return the same specification, a model's folder in it by its absolute path."""
    return ",".join(map(_absolute, spec.split(",")))


def _absolute(part: str) -> str:
    kind, colon, place = part.rpartition(":")
    local = kind.rpartition(":")[2] in _FOLDERS and os.path.isdir(place)
    return f"{kind}{colon}{os.path.abspath(place)}" if local else part


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


def _model_name(spec: str, whole: str) -> str:
    name, _, what = spec.partition(":")
    if name not in _MODELS:
        raise unknown_name(f"source of language models (in {whole!r})", name, _MODELS)
    if not what:
        raise ValueError(f"{whole!r} does not say which model: {CAPTIONERS[name].form}")
    return name


def _model(spec: str, settings: CaptionerSettings) -> "TextModel":
    name, _, what = spec.partition(":")
    return _MODELS[name](what, settings)


def _given(settings: CaptionerSettings, fields: tuple[str, ...]) -> dict[str, Any]:
    values = {field: getattr(settings, field) for field in fields}
    return {field: value for field, value in values.items() if value is not None}
