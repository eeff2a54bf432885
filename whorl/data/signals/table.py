"""The signals by RedPajama-V2's names. A dotted path `module:name` works wherever these names do.

Not here are those that need a trained model or a list from elsewhere: perplexity, importance weights,
classifiers, block lists, and the MinHash signatures (`whorl.data.dedup`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches

from whorl.base.errors import InputError
from whorl.data.document import Document, SignalValue
from whorl.data.signals import lines, natural, repetition

Signal = Callable[[Document], SignalValue]

SIGNALS: dict[str, Signal] = {
    "ccnet_length": natural.ccnet_length,
    "ccnet_nlines": natural.ccnet_nlines,
    "rps_doc_curly_bracket": natural.rps_doc_curly_bracket,
    "rps_doc_frac_all_caps_words": natural.rps_doc_frac_all_caps_words,
    "rps_doc_frac_lines_end_with_ellipsis": natural.rps_doc_frac_lines_end_with_ellipsis,
    "rps_doc_frac_no_alph_words": natural.rps_doc_frac_no_alph_words,
    "rps_doc_lorem_ipsum": natural.rps_doc_lorem_ipsum,
    "rps_doc_mean_word_length": natural.rps_doc_mean_word_length,
    "rps_doc_num_sentences": natural.rps_doc_num_sentences,
    "rps_doc_stop_word_fraction": natural.rps_doc_stop_word_fraction,
    "rps_doc_symbol_to_word_ratio": natural.rps_doc_symbol_to_word_ratio,
    "rps_doc_frac_unique_words": natural.rps_doc_frac_unique_words,
    "rps_doc_unigram_entropy": natural.rps_doc_unigram_entropy,
    "rps_doc_word_count": natural.rps_doc_word_count,
    "rps_lines_ending_with_terminal_punctution_mark": lines.rps_lines_ending_with_terminal_punctution_mark,
    "rps_lines_javascript_counts": lines.rps_lines_javascript_counts,
    "rps_lines_num_words": lines.rps_lines_num_words,
    "rps_lines_numerical_chars_fraction": lines.rps_lines_numerical_chars_fraction,
    "rps_lines_start_with_bulletpoint": lines.rps_lines_start_with_bulletpoint,
    "rps_lines_uppercase_letter_fraction": lines.rps_lines_uppercase_letter_fraction,
    "rps_doc_frac_chars_top_2gram": repetition.rps_doc_frac_chars_top_2gram,
    "rps_doc_frac_chars_top_3gram": repetition.rps_doc_frac_chars_top_3gram,
    "rps_doc_frac_chars_top_4gram": repetition.rps_doc_frac_chars_top_4gram,
    "rps_doc_frac_chars_dupe_5grams": repetition.rps_doc_frac_chars_dupe_5grams,
    "rps_doc_frac_chars_dupe_6grams": repetition.rps_doc_frac_chars_dupe_6grams,
    "rps_doc_frac_chars_dupe_7grams": repetition.rps_doc_frac_chars_dupe_7grams,
    "rps_doc_frac_chars_dupe_8grams": repetition.rps_doc_frac_chars_dupe_8grams,
    "rps_doc_frac_chars_dupe_9grams": repetition.rps_doc_frac_chars_dupe_9grams,
    "rps_doc_frac_chars_dupe_10grams": repetition.rps_doc_frac_chars_dupe_10grams,
}


def compute_signals(document: Document, names: Iterable[str] | None = None) -> dict[str, SignalValue]:
    """The values of the signals `names` (all, if None) for `document`, which stays as it is."""
    wanted = SIGNALS if names is None else {name: SIGNALS[name] for name in _known(names)}
    return {name: signal(document) for name, signal in wanted.items()}


def _known(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        if name not in SIGNALS:
            nearest = get_close_matches(name, SIGNALS, n=1, cutoff=0.0)[0]
            raise InputError(f"there is no signal named {name!r}; the nearest is {nearest!r}")
        yield name
