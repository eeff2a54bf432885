"""What is compared of a prompt: keys that equal prompts share, and a sketch that similar ones do.

Letters are folded first (NFKC, nothing invisible, no accents, Cyrillic and Greek letters that look Latin as
Latin ones), so that how a prompt is written does not matter. A text has up to four keys: of all its words,
of the same before folding (as stores of the first revisions have it), of its letters without spaces, and of
the words that say what is asked: "What's the capital of France? Answer in one word." asks for the capital of
France. The sketch is MinHash over runs of three words (Broder 1997). Images count by their pixels, and by
their bytes.
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whorl.arena.store.chain import check_text
from whorl.base.errors import InputError
from whorl.base.nouns import ImagePart, Message

THRESHOLD = 0.5
NGRAM, HASHES, SEED = 3, 64, 1
ROWS = 2  # places a band: a pair at the threshold shares none of 32 bands once in 10,000
# One prompt inside of another: this share of the smaller one's runs, and at least this similarity, below
# which bands find too few of them.
CONTAINED, LEAST, LEAST_RUNS = 0.75, 0.3, 10
FOLLOW_UP = 4  # words from which a later question stands for itself: "And in French?" does not
SHORTEST_RUN = 8  # letters that are compared without the spaces between them
LARGEST_PICTURE = 1 << 26  # pixels that are decoded to be compared

# Looks alike; folded where it stands. The texts compared need not read well.
_LOOK_ALIKE = str.maketrans("авеікмнорстухјѕԁһԛԝѡαβεικνορτυχϲϳ", "abeikmhopctyxjsdhqwwabeikvoptuxcj")
_ACCENTS = re.compile("[\u0300-\u036f]")
_SHORT_FORMS = (
    (re.compile(r"\b(what|who|where|how|when|that|there|it|he|she|let)['’`]s\b"), r"\1 is"),
    (re.compile(r"\b(can|won|don|doesn|didn|isn|aren|wasn|weren|couldn|shouldn|wouldn)['’`]?t\b"), r"\1 not"),
    (re.compile(r"['’`](?:re|ve|ll|d|m)\b"), " "),
    (
        re.compile(
            r"\b(?:in|with|using)\s+(?:(?:only|just)\s+)?(?:an?|one|two|three|\d+)\s+(?=(?:\w+\s+)?(?:word|sent))"
        ),
        " ",
    ),
)
# Words that say how to answer, or nothing: not what is asked.
_FLUFF_WORDS = (
    "a an the is are was were be been am do does did will would could can should may might must of to in on"
    " at by for from with as and or but that this these those which what it its"
    " i me my we us our you your please pls kindly thanks thank hi hello hey dear so just only now then"
    " answer answers reply respond response tell say give show explain describe write state name word words"
    " single sentence sentences short shortly brief briefly concise concisely detail detailed"
    " details step steps think carefully simple simply exactly clearly know want need like help let about"
    " der die das ein eine ist sind und bitte danke wie was ich mir antworte le la les un une est sont et"
    " s'il vous plait merci el los las es son y por favor gracias"
)
_FLUFF = frozenset(_FLUFF_WORDS.split())


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is compared of a prompt. `sketch` is uint64 [HASHES], None where only keys count; `size` says of
    how many runs of words; `bands` are numbers of which similar sketches share one."""

    keys: tuple[str, ...]
    sketch: np.ndarray | None = None
    size: int = 0
    bands: tuple[int, ...] = ()

    @property
    def pictured(self) -> bool:
        return not self.keys[0].startswith("text:")


def prepare(messages: Sequence[Message]) -> Prompt:
    """The prompt of a conversation: its first user message. Costly enough to be done outside of any
    transaction."""
    first = next((message for message in messages if message.role == "user"), None)
    if first is None:
        raise InputError("the conversation has no user message, so there is nothing to answer")
    return of_message(first)


def of_message(message: Message) -> Prompt:
    check_text(message.text, f"{message.role} message")
    if message.images:
        found = {f"image:{image.digest}" for image in message.images}
        return Prompt(keys=tuple(sorted(found | {pixels(image) for image in message.images})))
    return of_text(message.text)


def of_text(text: str) -> Prompt:
    from whorl.data.dedup import Sketch
    from whorl.data.dedup.minhash import shingles
    from whorl.data.document import Document

    folded = fold(text)
    document = Document(id="prompt", text=folded)
    keys = [_key("text", " ".join(document.words) or folded.strip())]
    if not text.isascii():
        plain = Document(id="prompt", text=text)
        keys.append(_key("text", " ".join(plain.words) or text.strip()))
    letters = "".join(document.words)
    if len(letters) >= SHORTEST_RUN:  # wherever its spaces are
        keys.append(_key("run", letters))
    if asked := core(folded):
        keys.append(_key("core", asked))
    if not document.words:
        return Prompt(keys=tuple(dict.fromkeys(keys)))
    sketch = Sketch(ngram=NGRAM, hashes=HASHES, seed=SEED)([document])[0]
    size = len(np.unique(shingles(document.words, NGRAM)))
    return Prompt(keys=tuple(dict.fromkeys(keys)), sketch=sketch, size=size, bands=bands(sketch))


def stands_alone(message: Message) -> bool:
    """Whether a later message of a person (or a system message) may be a prompt of its own."""
    if message.images:
        return True
    from whorl.data.dedup.minhash import split_unspaced

    return len(split_unspaced(re.findall(r"[^\W_]+", fold(message.text)))) >= FOLLOW_UP


def fold(text: str) -> str:
    """`text` as it is compared: see above."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text)
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text)))
    return text.casefold().translate(_LOOK_ALIKE)


def core(folded: str) -> str:
    """The words of a text that say what is asked, in their order; "" where fewer than two do."""
    from whorl.data.dedup.minhash import split_unspaced

    text = folded.lower()
    for pattern, plain in _SHORT_FORMS:
        text = pattern.sub(plain, text)
    # Signs count beside numbers: 12 + 7 is not 12 - 7.
    said = split_unspaced(re.findall(r"[^\W_]+|[-+*/^=<>%×÷](?=\s*[\d(])", text))
    words = [word for word in said if word not in _FLUFF]
    return " ".join(words) if sum(any(map(str.isalnum, word)) for word in words) > 1 else ""


def _key(kind: str, text: str) -> str:
    return f"{kind}:{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"


def pixels(image: ImagePart) -> str:
    """A key of what an image shows: saved anew it is the same picture. Of its bytes where it is none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image.data)) as opened:
            if opened.width * opened.height <= LARGEST_PICTURE:
                seen = opened.convert("RGBA")
                digest = hashlib.sha256(f"{seen.width}x{seen.height}:".encode() + seen.tobytes())
                return f"pixels:{digest.hexdigest()}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's, of a broken file
        pass
    return f"image:{image.digest}"


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The estimated Jaccard similarity of two sketches."""
    return float((one == other).mean())


def contained(shared: float, size: int, other: int) -> bool:
    """Whether one of two sets, of whose union `shared` is in both, lies mostly inside of the other."""
    smaller = min(size, other)
    if smaller < LEAST_RUNS or shared < LEAST:
        return False
    return shared / (1 + shared) * (size + other) >= CONTAINED * smaller


def bands(sketch: np.ndarray) -> tuple[int, ...]:
    """A signed 64-bit number for each band of ROWS neighbouring places."""
    found = set()
    for at in range(0, HASHES, ROWS):
        text = at.to_bytes(2, "big") + sketch[at : at + ROWS].tobytes()
        found.add(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True))
    return tuple(sorted(found))
