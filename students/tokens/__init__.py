"""Fewer tokens in training: which of a picture's patches and a text's words a step computes."""

from students.tokens.policy import TokenPolicy

__all__ = ["TokenPolicy"]
