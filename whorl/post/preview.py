"""What the model is about to learn, shown before the first step: samples by mask, lengths, what is cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from rich.markup import escape

from whorl.base.progress import console, say, speaks
from whorl.data.batch import Sample
from whorl.post.pair_samples import PairReport, PairSample
from whorl.post.samples import SampleReport
from whorl.text.tokenizer import Tokenizer

SHOWN = 3  # samples
SHOWN_PAIRS = 2
SHOWN_CHARACTERS = 600  # of each
BARS = 8  # of the histogram
BAR_WIDTH = 30


def preview(samples: Sequence[Sample], report: SampleReport, tokenizer: Tokenizer) -> None:
    """On stderr: three samples with what is learnt marked, the lengths, and what did not fit."""
    if not speaks():
        return
    colour = console().is_terminal
    learnt = "in green" if colour else "in [[ ]]"
    say(f"{len(samples):,} samples of {report.conversations:,} conversations; what is learnt is {learnt}:")
    for sample in samples[:SHOWN]:
        console().print(f"  {marked(sample, tokenizer, colour=colour)}", markup=colour)
    for line in histogram(report.lengths):
        say(line)
    if report.too_long:
        count, share = len(report.too_long), len(report.too_long) / len(report.lengths)
        say(f"{count} samples are too long ({share:.1%}): {report.cut} cut, {report.dropped} dropped")


def preview_pairs(pairs: Sequence[PairSample], report: PairReport, tokenizer: Tokenizer) -> None:
    """On stderr: pairs with what is preferred and what is not, the lengths, and what did not fit."""
    if not speaks():
        return
    colour = console().is_terminal
    signs = "in green, the rejected in red" if colour else "+, the rejected -, and what is compared in [[ ]]"
    say(f"{len(pairs):,} pairs of {report.pairs:,} read; the chosen reply is {signs}:")
    for pair in pairs[:SHOWN_PAIRS]:
        for sign, style, sample in (("+", "green", pair.chosen), ("-", "red", pair.rejected)):
            text = marked(sample, tokenizer, colour=colour, style=style)
            console().print(f"  {sign} {text}", markup=colour)
    if report.sampled:
        say(
            f"{report.sampled:,} replies are learnt from their sampled tokens, {report.rendered:,}"
            " are rendered with the chat template"
        )
    else:
        say("no reply has a trace from this model: all are rendered with its chat template")
    for line in histogram(report.lengths):
        say(line)
    if report.too_long:
        count, share = len(report.too_long), len(report.too_long) / report.pairs
        say(f"{count} pairs do not fit ({share:.1%}): {report.cut} cut, {report.dropped} dropped")


def marked(sample: Sample, tokenizer: Tokenizer, *, colour: bool, style: str = "green") -> str:
    """The sample's text with its learnt runs marked; rich markup where `colour`."""
    text = ""
    edges = np.flatnonzero(np.diff(sample.weights > 0)) + 1
    for run in np.split(np.arange(len(sample.tokens)), edges):
        part = tokenizer.decode(sample.tokens[run].tolist())
        if sample.weights[run[0]] > 0:
            part = f"[{style}]{escape(part)}[/{style}]" if colour else f"[[{part}]]"
        elif colour:
            part = f"[dim]{escape(part)}[/dim]"
        text += part
        if len(text) > SHOWN_CHARACTERS:
            return text + " …"
    return text


def histogram(lengths: Sequence[int]) -> list[str]:
    """Lengths in tokens, in bars of doubling width."""
    if not lengths:
        return []
    values = np.asarray(lengths)
    top = int(np.ceil(np.log2(max(2, values.max() + 1))))
    edges = [0, *(2**power for power in range(max(1, top - BARS + 2), top + 1))]
    counts, _ = np.histogram(values, edges)
    lines = []
    for (start, end), count in zip(pairwise(edges), counts, strict=True):
        bar = "█" * round(BAR_WIDTH * int(count) / counts.max())
        if count:
            lines.append(f"  {start:>6}–{end - 1:<6} {bar:<{BAR_WIDTH}} {count:,}")
    return lines
