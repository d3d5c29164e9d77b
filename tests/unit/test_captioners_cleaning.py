"""What models say around a caption goes, what belongs to it stays."""

# ruff: noqa: RUF001 - the typographic quotes are meant

import pytest

from teachers.captioners.cleaning import clean_answer, whole_sentences


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A red bus.", "A red bus."),
        ("  a red\n bus ", "a red"),
        ('"A red bus."', "A red bus."),
        ("“A red bus”", "A red bus"),
        ("'A red bus'", "A red bus"),
        ("Sure, here is a caption: A red bus", "A red bus"),
        ('Sure! Here\'s the rewritten caption:\n\n"A red bus"', "A red bus"),
        ("Here are three captions:\n1. A red bus\n2. A blue one", "A red bus"),
        ("Sure here is the caption: A red bus", "A red bus"),
        ("Sure thing! A red bus", "A red bus"),
        ("I’m sorry, I can’t do that.", ""),
        ("Certainly! A red bus in town.", "A red bus in town."),
        ("Caption: a red bus", "a red bus"),
        ("**Caption:** a red bus", "a red bus"),
        ("**Rewritten caption**: **A red bus**", "A red bus"),
        ("1) 'A red bus'", "A red bus"),
        ("- A red bus", "A red bus"),
        ("<think>a bus? \n\n yes</think>\n\nA red bus", "A red bus"),
        ("<think>a bus? it never ends", ""),
        ("## A red bus", "A red bus"),
        ("A red bus</s>", "A red bus"),
        ("A red bus\tat   night", "A red bus at night"),
        ("I'm sorry, but I can't describe people.", ""),
        ("I cannot help with that.", ""),
        ("As an AI language model, I have no eyes.", ""),
        ("Here are the captions:", ""),
        ("", ""),
        ("\n \n", ""),
        ('""', ""),
        # What looks like it and is not:
        ("Okay sign made with a hand", "Okay sign made with a hand"),
        ("Here is a red bus", "Here is a red bus"),
        ("3.5 mm jack", "3.5 mm jack"),
        ("2024 calendar", "2024 calendar"),
        ('"Stop" and "go" signs', '"Stop" and "go" signs'),
        ("dog's dinner", "dog's dinner"),
        ("a caption contest: the winner", "a caption contest: the winner"),
        ("text on a wall", "text on a wall"),
        ("sorry note on a fridge", "sorry note on a fridge"),
        ("Sure-footed goat on a cliff.", "Sure-footed goat on a cliff."),
        ("Great wide beach, with trees", "Great wide beach, with trees"),
        ("OK corral in Tombstone, Arizona.", "OK corral in Tombstone, Arizona."),
        ("the dog’s dinner", "the dog’s dinner"),
        ("日本の寺", "日本の寺"),
    ],
)
def test_cleaning(answer, caption):
    assert clean_answer(answer) == caption
    assert clean_answer(caption) == caption


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("A red bus. It stands at the", "A red bus."),
        ('He said "stop!" and then', 'He said "stop!"'),
        ("A bus of 3.5 metres and", "A bus of 3.5 metres and"),
        ("A red bus. A dog! Is it", "A red bus. A dog!"),
        ("A red bus.", "A red bus."),
        ("", ""),
    ],
)
def test_a_cut_text_ends_with_a_whole_sentence(text, cut):
    assert whole_sentences(text) == cut
