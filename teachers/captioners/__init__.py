"""Captioners: what writes new texts for a store's samples, from its texts or its pictures.

    captioner = load_captioner("rules")

`catalog.py` holds the table of them; the contract is `teachers.captioning.Captioner`.
"""
