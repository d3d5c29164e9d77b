"""New wordings of a sample's texts by a language model, after LaCLIP (Fan et al., 2023).

    captioner = RewriteCaptioner(load_transformers("Qwen/Qwen2.5-1.5B-Instruct"))

Every prompt shows a few pairs of caption and rewriting, drawn anew, and then one of the sample's
texts. The form works for models that follow instructions and for such that only continue a text.
LaCLIP draws with temperature 0.9 and top-p 0.95 and three pairs; so is the default here. Left out:
LaCLIP's four separate runs with one source of pairs each (make a caption set of each instead).
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from teachers.captioners.few_shot import EXAMPLES, Example
from teachers.captioners.prompts import Prompt, TextModel, cleaned, fingerprint_of
from teachers.captioners.sampling import Sampling
from teachers.captioning import CaptionRequest

LACLIP_SAMPLING = Sampling(temperature=0.9, top_p=0.95, max_tokens=77)
REWRITE = (
    "Rewrite image captions: say the same in other words, in one sentence, and add nothing that is "
    "not there. Answer with the new caption alone.\n\n{examples}Caption: {text}\nRewritten:"
)
# Of a sample's text; some web pages put themselves whole into an alt text.
_MAX_CHARS = 600


class RewriteCaptioner:
    """A language model that says a sample's texts in other words; pictures are not looked at.

    Args:
        model: answers prompts.
        examples: the pairs that are drawn from.
        shots: pairs a prompt.
        prompt: with {text}, and {examples} where pairs are to stand.

    Raises:
        ValueError: a prompt without its places, or more shots than pairs.
    """

    needs_image = False

    def __init__(
        self,
        model: TextModel,
        *,
        examples: Sequence[Example] = EXAMPLES,
        shots: int = 3,
        prompt: str | None = None,
    ) -> None:
        """Check the prompt."""
        self.prompt = REWRITE if prompt is None else prompt
        check_places(self.prompt, ("{text}",))
        if not 0 <= shots <= len(examples):
            raise ValueError(
                f"{shots} examples a prompt, of {len(examples)}: give more or ask less"
            )
        self.model, self.shots, self.examples = model, shots, tuple(examples)
        self.name, self.licence = model.name, model.licence
        pairs = [[example.original, example.rewritten] for example in examples]
        self.provenance = {
            **model.provenance,
            **{"prompt": self.prompt, "shots": shots, "examples": fingerprint_of(pairs)},
        }
        self.fingerprint = fingerprint_of("rewrite", model.fingerprint, self.prompt, shots, pairs)

    def caption(self, requests: Sequence[CaptionRequest], num_captions: int) -> list[list[str]]:
        """Ask once for each caption; a sample without texts gets none."""
        prompts = [
            [
                self._prompt(request, number)
                for number in range(num_captions if request.texts else 0)
            ]
            for request in requests
        ]
        return one_answer_each(self.model, prompts)

    def _prompt(self, request: CaptionRequest, number: int) -> Prompt:
        numbers = np.random.default_rng((request.seed, number))
        text = request.texts[numbers.integers(len(request.texts))]
        drawn = numbers.choice(len(self.examples), self.shots, replace=False)
        shown = "".join(
            f"Caption: {self.examples[i].original}\nRewritten: {self.examples[i].rewritten}\n\n"
            for i in drawn
        )
        filled = fill_places(self.prompt, {"{examples}": shown, "{text}": one_line(text)})
        return Prompt(key=request.key, text=filled, seed=int(numbers.integers(2**62)))


def one_answer_each(model: TextModel, prompts: Sequence[Sequence[Prompt]]) -> list[list[str]]:
    """Answer every prompt once, in one call, and sort the cleaned answers by sample."""
    answers = iter(cleaned(model.answer([prompt for row in prompts for prompt in row], 1)))
    return [[text for _ in row for text in next(answers)] for row in prompts]


def check_places(prompt: str, places: Sequence[str]) -> None:
    """Raise a `ValueError` when a prompt has no place for something that it is about."""
    missing = [place for place in places if place not in prompt]
    if missing:
        raise ValueError(
            f"the prompt {prompt[:80]!r} has no {' and no '.join(missing)}: there the texts of a "
            "sample are put in"
        )


def fill_places(prompt: str, texts: Mapping[str, str]) -> str:
    """Put texts into their places, all at once: a text may itself spell a place."""
    return re.sub("|".join(map(re.escape, texts)), lambda place: texts[place[0]], prompt)


def one_line(text: str) -> str:
    """Return a sample's text as one line of bounded length."""
    return " ".join(text[: 4 * _MAX_CHARS].split())[:_MAX_CHARS]
