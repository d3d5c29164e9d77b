"""Syntax masking without a tagger: content words stay before function words.

CLIPA (arXiv:2305.07017) ranks nouns before adjectives before verbs before the rest, by NLTK's
tagger, which is a download. Here a word's class is guessed from closed lists and endings: function
words are a closed class, and listed; a few hundred common adjectives and verbs are listed; endings
say some others; every other word counts as a noun, which is what most words of captions are. It is
a heuristic for English, wrong on words that are two things ("light", "play"); no more is claimed.
Words of other languages all count as nouns: the first ones stay, as in truncation.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from students.tokens.texts import shortened
from teachers.contract import Tokenizer

NOUN, ADJECTIVE, VERB, OTHER = range(4)

_FUNCTION = """
a about above across after against all along also although am among an and another any anybody
anyone anything are around as at be because been before behind being below beneath beside
besides between beyond both but by can could despite did do does doing down during each either
every everybody everyone everything except few for from had has have having he her here hers
herself him himself his how i if in inside into is it its itself just let like many may me might
mine more most much must my myself near neither no nobody none nor not nothing of off on once
one only onto or other our ours ourselves out outside over own per please rather really s same
several shall she should since so some somebody someone something still such t than that the
their theirs them themselves then there these they this those though through throughout till to
together too toward towards under until up upon us very via was we were what when where whether
which while who whom whose why will with within without would yet you your yours yourself
"""
_ADJECTIVES = """
bad beautiful best better big black blue bright broken brown clean clear cloudy cold colorful
cool cute dark deep different dirty dry empty fast fresh full funny good gray great green grey
happy hard heavy high hot huge large left little long low modern narrow new nice old open orange
pink pretty purple quiet red rich right round sad sharp short single small soft square strong
sunny sweet tall thick thin tiny top vintage warm wet white whole wide wild wooden yellow young
"""
_VERBS = """
ate bring came carry catch catches climb come comes cross crosses cut drink drive drives eat
eats enjoy enjoys fall falls fill find flies fly get gets give go goes got grow hang hangs held
hit hits hold holds jump jumps keep kept laid lay lie lies made make makes play plays put ran
read reads ride rides run runs said sat saw see seen sees sell show shows shown sing sit sits
sleep sleeps speak stand stands stood swim take taken takes talk talks throw throws took walk
walks wear wears went write
"""
_CLASSES = {
    word: kind
    for words, kind in ((_VERBS, VERB), (_ADJECTIVES, ADJECTIVE), (_FUNCTION, OTHER))
    for word in words.split()
}
_ENDINGS = (
    (ADJECTIVE, ("ful", "ous", "ive", "less", "able", "ible", "ish", "ical")),
    (VERB, ("ing", "ed")),
)
_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


def word_class(word: str) -> int:
    """Guess a word's class: NOUN, ADJECTIVE, VERB or OTHER; the first are kept before the last."""
    low = word.lower()
    if not any(letter.isalnum() for letter in low):
        return OTHER
    if low in _CLASSES:
        return _CLASSES[low]
    for kind, endings in _ENDINGS:
        if len(low) > 5 and low.endswith(endings):
            return kind
    return NOUN


class SyntaxTokenizer:
    """A tokenizer whose texts have at most `length` tokens, content words first.

    Words go, the least wanted and of those the last ones first, until the text fits; what stays
    keeps its order.
    """

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        """Shorten for, and with, `tokenizer`."""
        self._tokenizer = tokenizer
        self.context_length, self.vocab_size = length, tokenizer.vocab_size
        self._pieces: dict[str, int] = {}

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "n context"]:
        """Leave words out, tokenise, cut what is still too long."""
        tokens = self._tokenizer([self.shorten(text) for text in texts])
        no_seeds = torch.zeros(len(tokens), dtype=torch.int64)
        return shortened(tokens, "truncate", self.context_length, no_seeds)

    def config(self) -> dict[str, object]:
        """Of the tokenizer inside: a shortening one is for training, never saved."""
        return self._tokenizer.config()

    def shorten(self, text: str) -> str:
        """The words of a text that stay; a text that fits is given back as it is."""
        words = _WORD.findall(text)
        pieces = self._count(words)
        room = self.context_length - 2
        if sum(pieces) <= room:
            return text
        stay = []
        for place in sorted(range(len(words)), key=lambda i: (word_class(words[i]), i)):
            if pieces[place] <= room:
                stay.append(place)
                room -= pieces[place]
        return " ".join(words[place] for place in sorted(stay))

    def _count(self, words: Sequence[str]) -> list[int]:
        """How many tokens each word takes."""
        new = [word for word in dict.fromkeys(words) if word not in self._pieces]
        if new:
            if len(self._pieces) > 1 << 17:
                self._pieces.clear()
                new = list(dict.fromkeys(words))
            counts = self._tokenizer(new).argmax(dim=-1) - 1
            self._pieces.update(zip(new, counts.tolist(), strict=True))
        return [self._pieces[word] for word in words]
