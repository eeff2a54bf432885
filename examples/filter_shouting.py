"""A filter: one function, `Document -> str | None`. None keeps; a string drops, and is the counted reason.

whorl data run notes/ --out dataset --filters examples/filter_shouting.py:quiet
"""

from whorl.data import Document


def quiet(document: Document) -> str | None:
    """Set aside documents that are mostly capitals."""
    letters = [letter for letter in document.text if letter.isalpha()]
    if not letters:
        return "no_letters"
    share = sum(letter.isupper() for letter in letters) / len(letters)
    return "shouting" if share > 0.6 else None
