"""What is there when the table has been printed: the studio, the model behind its API, what to do next."""

from __future__ import annotations

import shlex
import threading
from pathlib import Path

from whorl.base.progress import say
from whorl.evals.serving import served, staying
from whorl.quickstart.config import QuickstartConfig

STUDIO = r"open (http://\S+)$"


def stay(workspace: Path, model: Path) -> None:
    """Keep the studio and the model's API up until Ctrl-C, and say what can be done with them."""
    with (
        staying("studio", "--workspace", str(workspace), "--port", "0", address=STUDIO) as studio,
        served(model) as address,
    ):
        print(f"\nstudio    {studio}\nserved at {address}/v1, both until Ctrl-C. In another terminal:")
        for line in next_commands(address, model, workspace):
            print(f"  {line}")
        try:
            # Woken now and then: a signal that another thread took is answered only when this one runs.
            while not threading.Event().wait(0.5):
                pass
        except KeyboardInterrupt:
            say("")


def next_commands(address: str, model: Path, workspace: Path) -> list[str]:
    """What a newcomer may want next, from whatever folder: this run's model, workspace and name."""
    place, home = (shlex.quote(str(path.resolve())) for path in (model, workspace))
    runs, name = shlex.quote(str(workspace.resolve() / "runs")), model.parent.name
    named = "" if name == QuickstartConfig.model_fields["name"].default else f" --name {shlex.quote(name)}"
    return [
        f"whorl chat {address} --temperature 0",
        f"whorl eval {address} --tasks digits,arithmetic,lookups --tools known",
        f"whorl sft {place} YOUR_CHATS.jsonl --runs {runs}",
        f"whorl quickstart --workspace {home}{named} --fresh --data YOUR_FILES",
    ]
