"""One caption of two: what the page says of a picture, and what a captioner sees in it.

    visual = coca_captioner("coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k")
    captioner = FusionCaptioner(load_transformers("Qwen/Qwen2.5-1.5B-Instruct"), visual)

VeCLIP (Lai et al., 2023): a language model fuses the alt text with the caption of a captioner that
was asked neutrally. CapsFusion (Yu et al., 2024) stresses what either is for: names and facts from
the page, structure from the captioner; `prompt="capsfusion"`. Both published prompts are for one
model each; these are our words. Left out: CapsFusion's fine-tuned fuser (any model can be given).
"""

from collections.abc import Sequence

import numpy as np

from teachers.captioners.prompts import Prompt, TextModel, fingerprint_of
from teachers.captioners.rewriting import check_places, fill_places, one_answer_each, one_line
from teachers.captioning import Captioner, CaptionRequest

FUSION_PROMPTS = {
    "veclip": (
        "Two texts describe the same picture. Write one caption of it, a single sentence, that "
        "holds what both say of the picture; where they disagree, trust the second. Answer with "
        "the caption alone.\n\nText from the web page: {alt}\nWhat is seen: {visual}\nCaption:"
    ),
    "capsfusion": (
        "Two texts describe the same picture. The first is from a web page: it may know names, "
        "places and facts, and may hold advertising or nonsense. The second says what is seen, in "
        "good order but in general words. Write the second anew with the names, places and facts "
        "of the first where they belong to the picture, and leave the rest of it out. Answer with "
        "the caption alone.\n\nFirst: {alt}\nSecond: {visual}\nCaption:"
    ),
}


class FusionCaptioner:
    """A language model that fuses a sample's text with a caption of its picture.

    Args:
        model: answers prompts; does the fusing.
        visual: writes the captions that are fused, or has them from a stored set
            (`StoredCaptions`).
        prompt: a name in `FUSION_PROMPTS`, or a text with {alt} and {visual}.

    Raises:
        ValueError: a prompt that is neither.
    """

    def __init__(self, model: TextModel, visual: Captioner, *, prompt: str | None = None) -> None:
        """Check the prompt."""
        prompt = "veclip" if prompt is None else prompt
        self.prompt = FUSION_PROMPTS.get(prompt, prompt)
        check_places(self.prompt, ("{alt}", "{visual}"))
        self.model, self.visual = model, visual
        self.needs_image = visual.needs_image
        self.reads: str | None = getattr(visual, "reads", None)
        self.name = f"{visual.name}+{model.name}"
        licences = [visual.licence, model.licence]
        known = [licence for licence in licences if licence is not None]
        self.licence = " and ".join(dict.fromkeys(known)) if len(known) == len(licences) else None
        self.provenance = {
            **model.provenance,
            "prompt": self.prompt,
            "visual": getattr(visual, "provenance", visual.name),
        }
        self.fingerprint = fingerprint_of(
            "fuse", model.fingerprint, visual.fingerprint, self.prompt
        )

    def caption(self, requests: Sequence[CaptionRequest], num_captions: int) -> list[list[str]]:
        """Fuse caption by caption.

        A sample without a text of its own keeps what the captioner saw, as there is nothing to
        fuse; one that the captioner was silent about gets nothing.
        """
        seen = self.visual.caption(requests, num_captions)
        prompts = [
            [self._prompt(request, texts, number) for number in range(num_captions)]
            if request.texts and texts
            else []
            for request, texts in zip(requests, seen, strict=True)
        ]
        fused = one_answer_each(self.model, prompts)
        return [
            captions if request.texts else texts
            for request, captions, texts in zip(requests, fused, seen, strict=True)
        ]

    def _prompt(self, request: CaptionRequest, seen: Sequence[str], number: int) -> Prompt:
        numbers = np.random.default_rng((request.seed, number))
        texts = {
            "{alt}": one_line(request.texts[numbers.integers(len(request.texts))]),
            "{visual}": one_line(seen[number % len(seen)]),
        }
        filled = fill_places(self.prompt, texts)
        return Prompt(key=request.key, text=filled, seed=int(numbers.integers(2**62)))
