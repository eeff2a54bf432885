from __future__ import annotations

import pickle
import subprocess
import sys

from whorl.text.tokenizer import Tokenizer


def test_the_room_is_lazy_and_needs_no_torch() -> None:
    script = (
        "import sys, whorl.text as text\n"
        "assert not {'torch', 'numpy', 'tokenizers', 'PIL', 'jinja2'} & set(sys.modules)\n"
        "for name in text.__all__: getattr(text, name)\n"
        "assert sorted(text.__all__) == sorted(text.PUBLIC)\n"
        "assert not {'torch', 'transformers', 'pyarrow'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_tokenizer_goes_to_worker_processes(ours: Tokenizer) -> None:
    again: Tokenizer = pickle.loads(pickle.dumps(ours))
    text = "def f(): <|im_end|>"
    assert again.encode(text) == ours.encode(text)
    assert again.hash == ours.hash
