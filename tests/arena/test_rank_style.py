"""Counting what a reply looks like."""

from __future__ import annotations

import numpy as np
import pytest

from whorl.arena import Battle, fit_bradley_terry, style_counts
from whorl.arena.battles import WINNERS

REPLY = """# Title
Some **bold** text and __more of it__, 2 * 3 * 4 ** 2.

## Steps
1. one
2) two
   - inner *soft*
+ other

```python
# no header
- no item
**no bold**
```
#hashtag and -dash are words
~~~
# nor here
"""


def test_headers_items_and_bold_outside_of_code() -> None:
    assert style_counts(REPLY) == {"tokens": len(REPLY.split()), "headers": 2, "lists": 4, "bold": 2}
    assert style_counts("", tokens=7) == {"tokens": 7, "headers": 0, "lists": 0, "bold": 0}


def test_counting_a_hostile_reply_takes_no_time() -> None:
    """Patterns that backtrack would take minutes here."""
    for text in ("**" * 50_000, "# " * 50_000, "```\n" * 25_000, "1" * 100_000, "** a" * 25_000):
        style_counts(text)


@pytest.mark.parametrize("left", [0.0, 0.5, 1.0])
def test_a_liking_for_long_replies_is_taken_out(left: float) -> None:
    """Two equal models, one talkative; judges like length alone; on either side."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(4000):
        long, short = float(random.poisson(200)), float(random.poisson(150))
        won = random.random() < 1 / (1 + np.exp(-6 * (long - short) / (long + short)))
        counts, names, winner = (long, short), ("talker", "brief"), WINNERS[int(not won)]
        if number >= left * 4000:
            counts, names, winner = (short, long), ("brief", "talker"), WINNERS[int(won)]
        rows.append(Battle(model_a=names[0], model_b=names[1], winner=winner, style=(("tokens", *counts),)))
    assert fit_bradley_terry(rows).difference("talker", "brief")[1] > 100
    gap, low, high = fit_bradley_terry(rows, style=("tokens",)).difference("talker", "brief")
    assert low < 0 < high and abs(gap) < 60
