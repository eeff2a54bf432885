"""Replies that give their model away: kept, but no blind vote can rest on them.

Three things give one away: the model's own name (or an alias, such as the name its server knows it by),
the leading word of that name, and the name of a known family or maker. A word alone says little ("base",
"amber", "Llama" stand in many an innocent answer), so all but names with a digit or a separator count only
where the reply speaks of itself. A list, and not a proof: it misses riddles, and what it takes for a name
costs one vote.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache

from whorl.base.nouns import Message

FAMILIES = (
    "baichuan", "bard", "bloom", "chatglm", "chatgpt", "claude", "codestral", "command[- ]?r", "copilot",
    "dbrx", "deepseek", "dolly", "doubao", "ernie", "exaone", "falcon", "gemini", "gemma", "glm", "gpt",
    "granite", "grok", "hunyuan", "internlm", "jamba", "kimi", "koala", "llama", "llava", "minicpm",
    "ministral", "mistral", "mixtral", "nemotron", "olmo", "openassistant", "openchat", "phi", "pythia",
    "qwen", "qwq", "smollm", "stablelm", "starcoder", "tulu", "vicuna", "wizardlm", "zephyr",
    "通义千问", "千问", "文心一言", "豆包", "混元", "智谱清言",
)  # fmt: skip
MAKERS = (
    "ai21", "alibaba", "allen institute", "amazon", "anthropic", "apple", "baidu", "bytedance", "cohere",
    "databricks", "deepmind", "deepseek", "eleutherai", "google", "hugging ?face", "ibm", "lg", "meta",
    "microsoft", "minimax", "mistral", "moonshot", "nvidia", "openai", "salesforce", "shanghai ai",
    "stability ai", "tencent", "tii", "technology innovation institute", "xai", "zhipu", "01[. ]?ai",
    "阿里", "百度", "腾讯", "字节", "谷歌", "微软", "智谱", "月之暗面", "深度求索",
)  # fmt: skip
# Leading words of names that say nothing of the model they belong to.
_COMMON_WORDS = (
    "ai assistant base best big bot chat checkpoint dpo final fine first good instruct large last latest"
    " lite lm llm lora main mini model models my new old pro run sft small step student teacher test the"
    " tiny tuned user your"
)
COMMON = frozenset(_COMMON_WORDS.split())

_LETTERS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # scripts that put no spaces between words
_BEGIN, _END = rf"(?<![^\W_{_LETTERS}])", rf"(?![^\W_{_LETTERS}])"
_OPEN, _CLOSE = r"[\"'*_`“”„«»‘’(\[]{0,4}", r"[\"'*_`“”«»‘’)\]]{0,4}"
_BETWEEN = r"(?:(?:(?![.!?;:,]\s)[^\w\n])|_){0,4}"  # "Qwen 2", "qwen_2"; not "qwen. 2 of them"
_VERSION = r"(?:[\s_-]{0,2}v?\d[\w.-]*|-[\w.-]+)*"

# A reply speaks of itself with one of these right before the name.
_SELF = (
    r"(?:\b(?:I\s+am|I['’]m|I\s+go\s+by|my\s+name(?:\s+is|['’]s|:)|(?:call|name)\s+me|I(?:\s+am|['’]m)\s+called"
    r"|you(?:['’]re|\s+are)\s+(?:talking|speaking|chatting)\s+(?:to|with)"
    r"|ich\s+bin|ich\s+hei(?:ß|ss)e|mein\s+name\s+ist|nenn(?:t|en\s+Sie)?\s+mich"
    r"|je\s+suis|je\s+m['’]appelle|mon\s+nom\s+est|appelle[sz]?[- ]moi"
    r"|soy|me\s+llamo|mi\s+nombre\s+es|ll[aá]mame|eu\s+sou|sou|me\s+chamo|meu\s+nome\s+[ée]"
    r"|sono|mi\s+chiamo|il\s+mio\s+nome\s+[èe]|ik\s+ben|mijn\s+naam\s+is|jestem|nazywam\s+się|benim\s+adım"
    r"|меня\s+зовут|моё\s+имя|мое\s+имя|я\s*[—–-]?)\s+"
    r"|(?:我是|我叫|我的名字是|我名叫|叫我|私は|わたしは|僕は|私の名前は|저는|나는|제\s*이름은|اسمي|أنا|मैं|मेरा\s+नाम)"
    r"\s*(?:一个|一款)?)"
)
_NOUN = r"(?:AI|model|assistant|chatbot|chat\s?bot|bot|LLM|language\s+model|series|family)"
# What may follow the name: nothing, a pause, or what is said of an assistant. More of a sentence makes a
# common word of it ("I am base jumping").
_STOP = rf"(?:$|[.!?,;:…|()\n。！？，、；：]|\s[-–—]\s|[–—]|[{_LETTERS}])"
_THEN = (
    rf"(?=\s*{_STOP}|\s+(?:and|und|et|y|e|en|и|but|made|created|developed|built|trained|designed|powered|by"
    r"|from|von|de|di|da|par|por|at|here|speaking|your|an?|the|eine?|dein|une?|votre|el|la|le|una|uma?|tu"
    rf"|{_NOUN})\b)"
)
_HERE = rf"(?:(?:^|[.!?,;:\n]\s*|\b(?:hi|hello|hey)\s+){_OPEN})"
_MADE = (
    r"(?:made|created|developed|built|trained|designed|released|provided)"
    r"(?:\s+and\s+\w+)?\s+(?:by|at)\s+(?:the\s+)?(?:\w+\s+(?:at|from)\s+)?"
)
_KIND = rf"(?:an?|the|your)\s+(?:[\w-]+\s+){{0,5}}?{_NOUN}[,\s]+"


def gives_away(message: Message, names: Iterable[str]) -> str:
    """What in a message tells which model said it, "" where nothing does: in its text, in its reasoning
    and in its calls, for a voter sees all of them."""
    shown = [message.text, message.reasoning or ""]
    for call in message.tool_calls:
        shown += [call.name, *_strings(call.arguments)]
    return next(filter(None, (names_itself(text, names) for text in shown if text)), "")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def names_itself(text: str, names: Iterable[str]) -> str:
    """The first of `names`, or the family or maker, that `text` gives away; "" for none.

    A name with a digit or a separator ("qwen2-7b", "Acme Chat") counts wherever it stands, in any case and
    with any separators. A plain word ("chat", "base"), the leading word of a longer name, and a known
    family or maker count only where the reply speaks of itself ("I am Base", "created by Acme").
    """
    text = plain(text)
    for name in names:
        if _tells(text, name):
            return name
    low = text.lower()
    for words, patterns in ((FAMILIES, _families), (MAKERS, _makers)):
        if any(word.partition("[")[0].partition(" ")[0] in low for word in words):
            for pattern in patterns():
                if found := pattern.search(text):
                    return found.group("name")
    return ""


def plain(text: str) -> str:
    """Text without what the eye does not see: one form of each letter, no invisible characters."""
    text = unicodedata.normalize("NFKC", text)
    if text.isascii():
        return text
    return "".join(letter for letter in text if unicodedata.category(letter) != "Cf")


def _tells(text: str, name: str) -> bool:
    first, everywhere, alone = _patterns(name)
    if first not in text.lower():  # most replies end here, at little cost: others wait for a vote's end
        return False
    if any(pattern.search(text) for pattern in everywhere):
        return True
    for pattern, proper in alone:
        for found in pattern.finditer(text):
            if not proper or found.group("name")[0].isupper():
                return True
    return False


@lru_cache(maxsize=512)
def _patterns(name: str) -> tuple[str, list[re.Pattern[str]], list[tuple[re.Pattern[str], bool]]]:
    """The word that has to be there, what gives `name` away wherever it stands, and what does where the
    reply speaks of itself (True: only with a capital)."""
    everywhere, alone, first = [], [], ""
    for one in dict.fromkeys((plain(name), plain(name).rstrip("/").rpartition("/")[2])):
        words = re.findall(r"[^\W_]+", one)
        # Letters and digits may be written apart as well: "qwen2-7b" is "Qwen 2 7B".
        pieces = [piece for word in words for piece in re.findall(r"\d+|[^\W\d]+", word)]
        first = pieces[0].lower() if pieces else "\0"
        if len(pieces) > 1:
            everywhere.append(re.compile(f"{_BEGIN}{_BETWEEN.join(map(re.escape, pieces))}{_END}", re.I))
        if pieces and len(pieces[0]) > 2 and pieces[0].isalpha():
            alone += _of_word(pieces[0], longer=len(pieces) > 1)
    return first, everywhere, alone


def _of_word(word: str, *, longer: bool) -> list[tuple[re.Pattern[str], bool]]:
    if longer and word.lower() in COMMON:
        return []
    name = f"{_OPEN}(?P<name>{re.escape(word)}){_END}{_VERSION if longer else ''}{_CLOSE}"
    said = (
        (f"{_SELF}{name}{_THEN}", False),
        (rf"\bI(?:\s+am|['’]m)\s+the\s+{name}\s+{_NOUN}\b", False),
        (rf"{_HERE}{name}\s+here(?=\s*{_STOP})", False),
        (rf"(?:^|[.!?\n]\s*){name}[\s(,—–:-]+(?:an?|your)\s+(?:\w+\s+)?{_NOUN}\b", True),
        (rf"{_HERE}this\s+is\s+{name}(?=\s*[.!,\n]|\s*$|\s+(?:speaking|here|your)\b)", True),
        (rf"\bas\s+{name},?\s+(?:I|my)\b", True),
    )
    return [(re.compile(pattern, re.I), proper) for pattern, proper in said]


_ANY_FAMILY = rf"{_BEGIN}{_OPEN}(?P<name>{'|'.join(FAMILIES)}){_VERSION}{_END}{_CLOSE}"


@cache  # a tenth of a second to compile, which a command that reads no reply need not wait for
def _families() -> list[re.Pattern[str]]:
    patterns = (
        rf"{_SELF}{_ANY_FAMILY}(?:{_THEN}|(?<=\d)\s)",
        rf"{_SELF}(?:an?|the|one\s+of\s+the)\s+{_ANY_FAMILY}\s+(?:\w+\s+)?{_NOUN}\b",
        rf"{_HERE}this\s+is\s+{_ANY_FAMILY}(?=\s*[.!,\n]|\s*$|\s+(?:speaking|here|your)\b)",
        rf"\bas\s+{_ANY_FAMILY},?\s+(?:I|my)\b",
        rf"{_HERE}{_ANY_FAMILY}\s+here(?=\s*{_STOP})",
    )
    return [re.compile(pattern, re.I) for pattern in patterns]


_SELF_MADE = (
    rf"\bI(?:\s+am|['’]m|\s+was|['’]ve\s+been|\s+have\s+been)\s+(?:[\w.*-]+,?\s+)?(?:{_KIND})?"
    rf"(?:(?:that|which)\s+(?:was|is|has\s+been)\s+)?(?:{_MADE}|by\s+|from\s+)"
    rf"|(?<!such\s)\bas\s+{_KIND}{_MADE}"
    r"|\bmy\s+(?:maker|creator|developer)s?\s+(?:is|are)\s+(?:the\s+)?"
    r"|\bich\s+(?:bin|wurde)\b[^.!?\n]{0,60}\bvon\s+|\bje\s+suis\b[^.!?\n]{0,60}\bpar\s+"
    r"|\b(?:soy|fui|sou)\b[^.!?\n]{0,60}\b(?:por|de|pela?o?)\s+|\bsono\b[^.!?\n]{0,60}\bd[ai]\s+"
    r"|\bя\b[^.!?\n]{0,60}\b(?:от|компанией|из)\s+|我是[^。！？\n]{0,24}?(?:由|来自)?"
)
_ANY_MAKER = rf"{_BEGIN}{_OPEN}(?P<name>{'|'.join(MAKERS)}){_END}"


@cache
def _makers() -> list[re.Pattern[str]]:
    patterns = (
        rf"(?:{_SELF_MADE}){_ANY_MAKER}",
        rf"{_ANY_MAKER}(?:\s+\w+)?\s+(?:made|created|developed|built|trained)\s+me\b",
    )
    return [re.compile(pattern, re.I) for pattern in patterns]
