"""torchrun, as `launch` starts it: `python -m whorl.parallel.agent N FOLDER FUNCTION ARGS…`.

Not for people. It runs N ranks of `whorl.parallel.rank`, writes who failed to FOLDER/failures.json, and
ends with its ranks when stdin closes, which is when `launch`'s process is gone.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import uuid
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def main(n: str, folder: str, function: str, *args: str) -> int:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # launch says it in one line
    count = int(n)
    quiet = dict.fromkeys(range(1, count), Std.ALL)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=quiet),
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "whorl.parallel.rank", folder, function, *args)
    except ChildFailedError as error:
        failures = [{"rank": rank, "code": failure.exitcode} for rank, failure in error.failures.items()]
        (Path(folder) / "failures.json").write_text(json.dumps(failures), encoding="utf-8")
        return 1
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _leave_with_parent() -> None:
    while os.read(0, 1):  # the descriptor, not sys.stdin, whose lock would be held at the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # torchrun's own handler ends the ranks


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
