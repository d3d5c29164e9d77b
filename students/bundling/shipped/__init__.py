"""What is copied into a bundle: Python that needs no torch, a web page, Swift and Kotlin.

The Python files import each other, numpy, Pillow and one runtime; the copies in a bundle find each
other by bare names (see `students/bundling/folder.py`).
"""
