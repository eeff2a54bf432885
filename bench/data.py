"""MB/s of the Gopher and FineWeb filters against datatrove's, on the same real documents, in one run.

    python bench/data.py [--rounds 3] [--megabytes 12]        needs: pip install -e '.[bench]'

One thread each way, the same texts, alternating; the median of the rounds' processor time counts. Both
sides start every round cold: Whorl forgets its lexicon, datatrove its cache of split texts (spaCy keeps its
own vocabulary between rounds, which favours it). Two pieces of work: the three filters on every document,
and FineWeb's recipe, where the first reason ends it and C4 shortens the text before FineWeb's own rules.

What dominates here: the rules for chunks of text not seen before (sources of programs have many), then the
sort of word pairs; the look-up of known chunks and the splitting at white space come next, all else is small.
The limit printed is what one core reaches scanning the same text once (`str.count`) and cutting it at white
space (`str.split`), which no word-based filter in Python can do without.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import statistics
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from _record import keep
from rich.console import Console
from rich.table import Table

from whorl.data.document import Document
from whorl.data.filters import (
    c4_quality,
    fineweb_quality,
    fineweb_recipe,
    gopher_quality,
    gopher_repetition,
)
from whorl.data.filters.english import forget, tokenize

DATA = Path(os.environ.get("WHORL_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
FILTERS = {
    "gopher_repetition": gopher_repetition,
    "gopher_quality": gopher_quality,
    "fineweb_quality": fineweb_quality,
}
Verdicts = list[tuple[str | None, ...]]


class Text(NamedTuple):
    kind: str
    name: str
    text: str


def texts(limit: int) -> list[Text]:
    """The documents: every kind in turn until `limit` characters, so that none crowds out the rest."""
    kinds = [list(kind()) for kind in (articles, plays, chats, problems, topics, docstrings, sources)]
    chosen: list[Text] = []
    size = 0
    while size < limit and any(kinds):
        for kind in kinds:
            share = 0
            while kind and share < 50_000:
                chosen.append(kind.pop(0))
                share += len(chosen[-1].text)
            size += share
    return chosen


def articles() -> Iterator[Text]:
    for path in sorted(DATA.glob("wikitext2-*.txt")):
        for part in re.split(r"\n(?= = [^=\n]+ = \n)", path.read_text(encoding="utf-8")):
            if part.strip():
                yield Text("Wikipedia article", part.strip().split("\n")[0], part)


def plays() -> Iterator[Text]:
    path = DATA / "tinyshakespeare.txt"
    page: list[str] = []
    for speech in path.read_text(encoding="utf-8").split("\n\n") if path.exists() else ():
        page.append(speech)
        if sum(map(len, page)) > 4000:
            yield Text("play", speech.split("\n")[0], "\n\n".join(page))
            page = []


def chats() -> Iterator[Text]:
    path = DATA / "conversations.json"
    for record in json.loads(path.read_text(encoding="utf-8")) if path.exists() else ():
        yield Text("chat", record["id"], "\n\n".join(turn["value"] for turn in record["conversations"]))


def problems() -> Iterator[Text]:
    for path in sorted(DATA.glob("gsm8k-*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            record = json.loads(line)
            yield Text("school problem", f"{path.stem}:{number}", f"{record['question']}\n{record['answer']}")


def topics() -> Iterator[Text]:
    from pydoc_data.topics import topics as python_topics

    for name, text in sorted(python_topics.items()):
        yield Text("Python topic", name, text)


def library() -> Iterator[tuple[str, str]]:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if not {"site-packages", "test", "lib2to3", "idlelib"} & set(path.parts):
            yield path.name, path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")


def docstrings() -> Iterator[Text]:
    for name, source in library():
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
        found = [text for node in nodes if (text := ast.get_docstring(node))]
        if found:
            yield Text("docstrings", name, "\n\n".join(found))


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def sources() -> Iterator[Text]:
    for name, source in library():
        if source.strip():
            yield Text("program", name, source)


def whorl_each(documents: list[Text]) -> Verdicts:
    made = (Document(id="x", text=text) for _, _, text in documents)
    return [tuple(rule(document) for rule in FILTERS.values()) for document in made]


def whorl_recipe(documents: list[Text]) -> Verdicts:
    return [(fineweb_recipe(Document(id="x", text=text)),) for _, _, text in documents]


def peer() -> dict[str, Callable[[list[Text]], Verdicts]]:
    """datatrove's filters with their defaults; their `filter` alone, without the pipeline around it."""
    from datatrove.data import Document as Theirs
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    repetition, quality, fineweb = GopherRepetitionFilter(), GopherQualityFilter(), FineWebQualityFilter()
    c4 = C4QualityFilter(filter_no_terminal_punct=False)

    def reason(result: Any) -> str | None:
        return None if result is True else result[1]

    def each(documents: list[Text]) -> Verdicts:
        made = (Theirs(text=text, id="x") for _, _, text in documents)
        rules = (repetition, quality, fineweb)
        return [tuple(reason(rule.filter(document)) for rule in rules) for document in made]

    def recipe(documents: list[Text]) -> Verdicts:
        verdicts: Verdicts = []
        for _, _, text in documents:
            document = Theirs(text=text, id="x")
            found = (reason(rule.filter(document)) for rule in (repetition, quality, c4, fineweb))
            verdicts.append((next((one for one in found if one), None),))
        return verdicts

    return {"each": each, "recipe": recipe}


def forget_all() -> None:
    from datatrove.utils.text import split_into_parts

    forget()
    split_into_parts.cache_clear()


def timed(work: Callable[[list[Text]], Any], documents: list[Text]) -> tuple[float, Any]:
    """Seconds of processor time (both sides are one thread, and the machine may have other work)."""
    started = time.process_time()
    result = work(documents)
    return time.process_time() - started, result


def compare(
    documents: list[Text], names: tuple[str, ...], ours: Verdicts, theirs: Verdicts
) -> dict[str, Any]:
    """Shares of equal verdicts (keep or drop; and with the same reason), and what is behind the others."""
    pairs = [
        (name, one, other, document)
        for document, mine, yours in zip(documents, ours, theirs, strict=True)
        for name, one, other in zip(names, mine, yours, strict=True)
    ]
    differing = [(name, one, other, document) for name, one, other, document in pairs if one != other]
    table = Counter(
        (name, other or "keep", one or "keep", why(document)) for name, one, other, document in differing
    )
    decision = sum((one is None) == (other is None) for _, one, other, _ in pairs)
    return {
        "verdicts": len(pairs),
        "equal_decision": decision / len(pairs),
        "equal_reason": 1 - len(differing) / len(pairs),
        "differing": [[*key, count] for key, count in table.most_common()],
    }


def why(document: Text) -> str:
    """What differs behind an unequal verdict: the words, or nothing but the rules."""
    from datatrove.utils.text import split_into_words

    theirs, ours = Counter(split_into_words(document.text)), Counter(tokenize(document.text).words)
    if theirs == ours:
        return f"{document.kind}: same words"
    odd = ", ".join(repr(word) for word, _ in ((theirs - ours) + (ours - theirs)).most_common(3))
    return f"{document.kind}: words cut otherwise ({odd})"


def profile(documents: list[Text]) -> dict[str, float]:
    """Seconds of each part of ours, from a cold lexicon, on documents made beforehand."""
    forget()
    made = [Document(id="x", text=text) for _, _, text in documents]
    for document in made:
        _ = document.lines
    parts: dict[str, float] = {}
    steps: dict[str, Callable[[Document], Any]] = {
        "tokens, cold lexicon": lambda document: tokenize(document.text),
        "tokens, warm lexicon": lambda document: document.english_tokens,
        **FILTERS,
        "c4_quality": c4_quality,
    }
    for name, step in steps.items():
        parts[name] = timed(lambda _, step=step: [step(document) for document in made], documents)[0]  # type: ignore[misc]
    return parts


def limits(documents: list[Text]) -> dict[str, float]:
    """Seconds of one scan and of one cut at white space."""
    return {
        "scan (str.count)": timed(lambda those: [one.text.count("\x01") for one in those], documents)[0],
        "cut (str.split)": timed(lambda those: [len(one.text.split()) for one in those], documents)[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs, alternating")
    parser.add_argument("--megabytes", type=float, default=12.0, help="how much text, at most")
    options = parser.parse_args()
    try:
        theirs = peer()
    except ImportError as error:
        sys.exit(f"bench/data.py compares with datatrove: {error}; pip install -e '.[bench]'")
    documents = texts(int(options.megabytes * 1e6))
    size = sum(len(one.text.encode("utf-8", "surrogatepass")) for one in documents) / 1e6
    console = Console()
    kinds = Counter(one.kind for one in documents)
    console.print(
        f"{len(documents)} documents, {size:.1f} MB: " + ", ".join(f"{n} × {k}" for k, n in kinds.items())
    )

    ours = {"each": whorl_each, "recipe": whorl_recipe}
    seconds: dict[tuple[str, str], list[float]] = {}
    verdicts: dict[tuple[str, str], Verdicts] = {}
    for side in (ours, theirs):
        side["each"](documents[:20])  # imports and first-use set-up are not the work
    for number in range(options.rounds):
        for work in ours:
            for side, functions in (("whorl", ours), ("datatrove", theirs)):
                forget_all()
                taken, verdicts[side, work] = timed(functions[work], documents)
                seconds.setdefault((side, work), []).append(taken)
        console.print(f"round {number + 1} of {options.rounds} done", style="dim")

    bounds, parts = limits(documents), profile(documents)
    work_names = {"each": tuple(FILTERS), "recipe": ("fineweb",)}
    rates = {key: size / statistics.median(taken) for key, taken in seconds.items()}
    table = Table(
        "work",
        "Whorl MB/s",
        "datatrove MB/s",
        "ratio",
        "equal keep/drop",
        "equal reason",
        "of a scan",
        "of a cut",
    )
    record: dict[str, Any] = {}
    for work, names in work_names.items():
        found = compare(documents, names, verdicts["whorl", work], verdicts["datatrove", work])
        mine, yours = rates["whorl", work], rates["datatrove", work]
        shares = [mine * bound / size for bound in bounds.values()]
        table.add_row(
            {"each": "Gopher ×2 + FineWeb rules, all", "recipe": "FineWeb recipe with C4"}[work],
            f"{mine:.2f}", f"{yours:.3f}", f"{mine / yours:.1f}×", f"{found['equal_decision']:.3%}",
            f"{found['equal_reason']:.3%}", *(f"{share:.1%}" for share in shares),
        )  # fmt: skip
        record[work] = {
            "whorl_mb_s": mine, "datatrove_mb_s": yours, "ratio": mine / yours, **found,
            "seconds": {side: seconds[side, work] for side in ("whorl", "datatrove")},
        }  # fmt: skip
    console.print(table)
    reasons = Table("filter", "datatrove", "Whorl", "why", "documents", title="unequal verdicts")
    for work in work_names:
        for row in record[work]["differing"]:
            reasons.add_row(*map(str, row))
    console.print(reasons if reasons.row_count else "no unequal verdicts")
    dropped = Counter(one or "keep" for (one,) in verdicts["whorl", "recipe"])
    console.print(
        "recipe's verdicts: " + ", ".join(f"{name} {count}" for name, count in dropped.most_common())
    )
    for name, taken in {**bounds, **parts}.items():
        console.print(f"  {name:36} {size / taken:9.1f} MB/s")
    record |= {
        "documents": len(documents), "megabytes": size, "rounds": options.rounds, "kinds": dict(kinds),
        "limits_mb_s": {name: size / taken for name, taken in bounds.items()},
        "parts_mb_s": {name: size / taken for name, taken in parts.items()},
    }  # fmt: skip
    keep("data", record, ("numpy", "datatrove", "spacy"))


if __name__ == "__main__":
    main()
