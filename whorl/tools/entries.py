"""An `Entry`: what a look-up finds under a name, laid out so that its first line answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_WORDS = 40  # of the text a look-up returns after its first sentence

# A sentence ends at . ! ? before a space and what can begin another one; CJK marks need no space.
# "e.g." and friends end none.
SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)[.!?]+[\"'”’)\]]*(?=\s+[^\s\da-z]|\s*$)"
    r"|[。！？]+[”’」』）]*"
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A documented name or a titled passage.

    `sentence` is its first sentence on one line; `signature` (empty for prose) how it is called;
    `rest` the paragraph after that sentence; `where` its file and line, for a person.
    """

    name: str
    sentence: str
    signature: str = ""
    rest: str = ""
    where: str = ""

    def text(self, max_words: int = MAX_WORDS) -> str:
        """What the look-up returns: the sentence first, then how it is called, then the rest, cut
        at `max_words` words."""
        lines = [self.sentence]
        words = self.rest.split()
        for extra, count in ((self.signature, len(self.signature.split())), (self.rest, len(words))):
            if not extra:
                continue
            if count > max_words:
                extra = " ".join(extra.split()[:max_words]) + " …" if max_words else ""
            max_words = max(0, max_words - count)
            if extra:
                lines.append(extra)
        return "\n".join(lines)


def first_sentence(text: str) -> tuple[str, str]:
    """The first sentence of `text`'s first paragraph and the rest of that paragraph, each on one
    line; ("", "") for blank text."""
    paragraph = ""
    for block in re.split(r"\n\s*\n", text.strip()):
        paragraph = " ".join(block.split())
        if paragraph:
            break
    end = SENTENCE_END.search(paragraph)
    if end is None:
        return paragraph, ""
    return paragraph[: end.end()], paragraph[end.end() :].strip()
