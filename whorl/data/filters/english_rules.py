"""What counts as an English token: affixes, infixes, addresses, contractions, abbreviations, emoticons.

Written from the behaviour of spaCy's English rules, so that word counts (and with them Gopher's and
FineWeb's verdicts) agree; `tests/data/test_filters.py` and `bench/data.py` measure by how much.
"""

from __future__ import annotations

import re
from itertools import product

_list = str.split  # a list of words, written as one reads it
# Letters whose case Python's `re` cannot ask for: Latin, Greek and Cyrillic, where English text has them.
_CASED = [chr(i) for i in range(0x530)]
_LOWER = "".join(char for char in _CASED if char.islower())
_UPPER = "".join(char for char in _CASED if char.isupper())
_CAPITALS = frozenset(_UPPER)
_LETTER = r"[^\W\d_]"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧"
_CURRENCY = "$£€¥฿₽₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
_PICTURES = "¦©®҂℀-℉℔-℗℞-℣↕-↙↜-⇍⇐⇑⇓⇕-⇳⌀-⌇⌌-⌟⌢-⍻⍽-⎚⏢-⑊⒜-ⓩ─-▶▸-◀◂-◷☀-♮♰-❧➔-➿⬀-⬯⺀-⿕\U0001f000-\U0001faff"
_UNITS = _list(
    "km² km³ km m² m³ m dm² dm³ dm cm² cm³ cm mm² mm³ mm ha µm nm yd in ft kg g mg µg t lb oz m/s km/h"
    " kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K %"
)
_HYPHENS = "---|--|——|[-–—~]"

_PICTURE = re.compile(f"[{_PICTURES}]")
_ALONE = frozenset(
    ",:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪…—–" + _QUOTES
)  # tokens wherever they lead or trail
_LEADING = _ALONE | frozenset("§%=" + _CURRENCY)
_AFTER_DIGIT = frozenset("%+" + _CURRENCY)
_BEFORE_STOP = _ALONE - frozenset("—–") | frozenset("0123456789%²-+" + _LOWER)
LONGEST_MEASURE = 5  # characters, the digit before it included
_MEASURE = re.compile(rf"(?<=[0-9])(?:{'|'.join(map(re.escape, _UNITS))})\Z")


def prefix(chunk: str, start: int, end: int) -> int:
    """How many characters of chunk[start:end] are a token before the rest."""
    first = chunk[start]
    if first.isalnum():
        return 0
    if first == ".":
        stop = start + 1
        while stop < end and chunk[stop] == ".":
            stop += 1
        return stop - start if stop - start > 1 else 0
    if first == "+":
        return int(start + 1 == end or not "0" <= chunk[start + 1] <= "9")
    return int(first in _LEADING or (first > "\x7f" and _PICTURE.match(first) is not None))


def suffix(chunk: str, start: int, end: int) -> int:
    """How many characters of chunk[start:end] are a token after the rest, at least one of which stays."""
    last, before = chunk[end - 1], chunk[end - 2] if end - start > 1 else ""
    if not before:
        return 0
    if last.isalnum():
        if last in "sS" and before in "'’":
            return 2 if end - start > 2 else 0
        tail = chunk[max(start, end - LONGEST_MEASURE) : end]
        match = None if tail.isalpha() else _MEASURE.search(tail)
        return len(match.group()) if match else 0
    if last == ".":
        return _full_stop(chunk, start, end)
    digit = "0" <= before <= "9"
    return int(
        last in _ALONE or (digit and last in _AFTER_DIGIT) or (last > "\x7f" and bool(_PICTURE.match(last)))
    )


def _full_stop(chunk: str, start: int, end: int) -> int:
    begin = end - 1
    while begin > start and chunk[begin - 1] == ".":
        begin -= 1
    if begin < end - 1:  # a run of dots is one token
        return end - begin if begin > start else 0
    before = chunk[end - 2]
    if before in _BEFORE_STOP or before == "…":
        return 1
    two = chunk[max(start, end - 3) : end - 1]
    if len(two) == 2 and two[0] in _CAPITALS and two[1] in _CAPITALS:
        return 1
    return int(len(two) == 2 and two[0] == "°" and two[1] in "FfCcKk")


INFIX = re.compile(
    rf"\.\.+|…|[{_PICTURES}]|(?<=[0-9])[+\-*^](?=[0-9-])"
    rf"|(?<=[{_LOWER}{re.escape(_QUOTES)}])\.(?=[{_UPPER}{re.escape(_QUOTES)}])"
    rf"|(?<={_LETTER}),(?={_LETTER})|(?<=[^\W_])(?:{_HYPHENS})(?={_LETTER})"
    rf"|(?<=[^\W_])[:<>=/](?={_LETTER})"
)
MAYBE_EMOTICON = re.compile(r"[:;=()\[\]'<]{2}|[:;=x][-D(P/3|>*}xXo0pD]")  # no joined one is without
MAYBE_INFIX = re.compile(rf"[.…+\-*^,:<>=/–—~{_PICTURES}]")  # no infix is without one of these
URL = re.compile(
    r"(?:[a-z][a-z0-9+\-.]*://|mailto:)?(?:[^\s@]+@)?"
    r"(?:[A-Za-z0-9\u00a1-\uffff](?:[A-Za-z0-9\u00a1-\uffff_-]{0,62}[A-Za-z0-9\u00a1-\uffff])?\.)+"
    r"[a-z\u00a1-\uffff]{2,63}(?::\d{2,5})?(?:[/?#]\S*)?"
)
# Ends a sentence where it is a token of its own: Unicode's property Sentence_Terminal, as code points.
_SENTENCE_TERMINAL = (
    "21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736 "
    "17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f "
    "203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f "
    "a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 "
    "10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239 "
    "1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 "
    "11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 "
    "16e98 1bc9f 1da88 "
)


def _characters(ranges: str) -> frozenset[str]:
    bounds = [part.partition("-") for part in ranges.split()]
    return frozenset(
        chr(code) for low, _, high in bounds for code in range(int(low, 16), int(high or low, 16) + 1)
    )


TERMINATORS = _characters(_SENTENCE_TERMINAL)

LONGEST_EMOTICON = 6
EMOTICON = re.compile(
    r"[:;]['’]?-?[()]|[:=][D(P/3|\]]|=\)|[:]-?\){2,3}|:-?\({2,3}|:-?[]DPOopXx03|*>}/]|:[]}\[D0O13x*PXo|>/]"
    r"|8-?\)|8-D|\([:;=]|\(-[:;8]|\)-?:|\[-?:|\[=|\]=|<3+|</3|[;]-?D|-_+-|>[.]<|<[.]<|>[.]>|>:[(o]|:o\)|\(o:"
    r"|[oOvV0]([._])[oOvV0]|\^_+\^|@_@|;_;|''"
)

_ABBREVIATIONS = _list(
    "Adm. Ak. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. D.C. Dec. Del. Dr. E.G. E.g. Feb."
    " Fla. Ga. Gen. Gov. I.E. I.e. Ia. Id. Ill. Inc. Ind. Jan. Jr. Jul. Jun. Kan. Kans. Ky. La. Ltd. Mar."
    " Mass. Md. Messrs. Mich. Minn. Miss. Mo. Mont. Mr. Mrs. Ms. Mt. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr."
    " Nev. Nov. Oct. Okla. Ore. Pa. Ph.D. Prof. Rep. Rev. S.C. Sen. Sep. Sept. St. Tenn. Va. Wash. Wis."
    " a.m. p.m. e.g. i.e. co. vs. v.s."
)
_WHOLE = _list(
    "'Cause 'Cos 'Coz 'Cuz 'S 'bout 'cause 'cos 'coz 'cuz 'd 'em 'll 'nuff 're 's '' Ma'am ma'am O'clock"
    " o'clock Ol' ol' C++ and/or w/o \\n \\t xD XD xDD XDD 8D doin' goin' havin' lovin' nothin'"
    " nuthin' somethin' Doin' Goin' Havin' Lovin' Nothin' Nuthin' Somethin'"
)
_OTHER_SPLITS = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "let's": ("let", "'s"),
    "c'mon": ("c'm", "on"), "y'all": ("y'", "all"), "yall": ("y", "all"), "how'd'y": ("how", "'d", "'y"),
    "i'm": ("i", "'m"), "i'ma": ("i", "'m", "a"), "im": ("i", "m"), "ima": ("i", "m", "a"),
}  # fmt: skip
# With the apostrophe left out, these are words of their own.
_NOT_CONTRACTIONS = frozenset(_list("ill its hell shell shed were well whore"))


def _contractions() -> dict[str, tuple[str, ...]]:
    """ "don't" → "do" + "n't", and its kin, in lower case with a straight apostrophe."""
    table = dict(_OTHER_SPLITS)

    def add(*parts: str) -> None:
        table["".join(parts)] = parts
        bare = tuple(part.replace("'", "") for part in parts)
        if "".join(bare) not in _NOT_CONTRACTIONS:
            table["".join(bare)] = bare

    for base in _list("i you he she it we they"):
        endings = ["'ll", "'d"]
        endings += ["'ve"] if base in ("i", "you", "we", "they") else ["'s"]
        endings += ["'re"] if base in ("you", "we", "they") else []
        for ending in endings:
            add(base, ending)
        add(base, "'ll", "'ve")
        add(base, "'d", "'ve")
    for base in _list("who what when where why how there that this these those"):
        for ending in ("'ll", "'d", "'ve", "'re", "'s"):
            if (base, ending) not in (("that", "'re"), ("this", "'re"), ("these", "'s"), ("those", "'s")):
                add(base, ending)
        add(base, "'ll", "'ve")
        add(base, "'d", "'ve")
    for base in _list("ca could do does did had may might must need ought sha should wo would"):
        add(base, "n't")
        add(base, "n't", "'ve")
    for base in _list("could might must should would not"):
        add(base, "'ve")
    for base in _list("ai are is was were have has dare"):
        add(base, "n't")
    return table


def _specials() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for parts in _contractions().values():
        for title, curly in product((False, True), repeat=2):
            shown = (parts[0].capitalize(), *parts[1:]) if title else parts
            shown = tuple(part.replace("'", "’") for part in shown) if curly else shown
            table["".join(shown)] = shown
    for hour, half in product(range(1, 13), ("am", "pm", "a.m.", "p.m.")):
        table[f"{hour}{half}"] = (str(hour), half)
    letters = [f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyzäöü"]
    for word in (*_ABBREVIATIONS, *_WHOLE, *letters):
        table[word] = (word,)
        table[word.replace("'", "’")] = (word.replace("'", "’"),)
    return table


_SPECIALS = _specials()


def is_special(piece: str) -> bool:
    """Whether `piece` is split by a list and not by affixes."""
    if piece in _SPECIALS:
        return True
    return len(piece) <= LONGEST_EMOTICON and not piece.isalnum() and EMOTICON.fullmatch(piece) is not None


def special(piece: str) -> list[str]:
    return list(_SPECIALS.get(piece, (piece,)))
