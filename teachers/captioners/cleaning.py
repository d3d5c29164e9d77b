r"""From a model's answer to a caption: without what models say around it.

    clean_answer('Sure! Here is a caption:\n\n1. "A **red** bus."')  # A red bus.

Left out, on purpose: judging whether the caption is true or well written.
"""

# ruff: noqa: RUF001 - the typographic quotes are meant

import re

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_SPECIAL = re.compile(r"<\|?(?:s|/s|pad|unk|bos|eos|endoftext|im_end|end_of_text)\|?>")
_PREAMBLE = re.compile(
    r"(?:(?:sure|certainly|of course|okay|ok|absolutely)(?: thing)?(?:[!,.:]\s+|\s+(?=here\b))"
    r"|great!\s+|here(?:['’]s| is| are)\b[^\n:]{0,80}:\s*)+",
    re.IGNORECASE,
)
_NUMBERING = re.compile(r"(?:[-*•–]\s+|\(?\d{1,2}[.)]\s+)")
_LABEL = re.compile(
    r"\**(?:(?:new|final|rewritten|rephrased|rewrite|improved|image|visual|fused|merged|short|alt)"
    r"[ -]?)*(?:caption|description|rewritten|rewrite|output|answer|sentence|text)"
    r"(?: \d{1,2})?\**\s*[:=]\**\s*",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"(?:i['’]?m sorry|i am sorry|sorry|i apologi[sz]e|unfortunately)\b"
    r".*\b(?:can(?:['’]t|not)|unable)\b"
    r"|i (?:can(?:['’]t|not)|am unable to)\b|i['’]m unable to\b"
    r"|as an ai\b",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}
_SENTENCE_END = re.compile(r"[.!?。！？]['\"”’)]*(?=\s|$)")


def clean_answer(answer: str) -> str:
    """Return the caption in an answer, or nothing when there is none (a refusal, silence).

    Thoughts, preambles ("Sure, here is ..."), labels, numbering, markup and quotes around the whole
    are taken away, until nothing is left to take. Of several paragraphs the first with something
    in it counts; white space is one space.
    """
    text = _SPECIAL.sub(" ", _THOUGHT.sub(" ", answer)).strip()
    text = _PREAMBLE.sub("", text, count=1) if _PREAMBLE.match(text) else text
    for line in text.splitlines():
        caption = _unwrapped(" ".join(line.split()))
        if caption and not caption.endswith(":"):
            return "" if _REFUSAL.match(caption) else caption
    return ""


def whole_sentences(text: str) -> str:
    """Cut a text that stopped in mid-sentence back to its last end; without one it stays."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def _unwrapped(line: str) -> str:
    before = None
    while line != before:
        before = line
        for pattern in (_PREAMBLE, _NUMBERING, _LABEL):
            found = pattern.match(line)
            line = line[found.end() :] if found else line
        line = _without_markup(line).strip()
        closing = _QUOTES.get(line[:1])
        if closing and len(line) > 1 and line.endswith(closing) and line[1:-1].count(closing) == 0:
            line = line[1:-1].strip()
    return line


def _without_markup(line: str) -> str:
    line = re.sub(r"^#{1,6}\s+", "", line)
    return re.sub(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", r"\2", line)
