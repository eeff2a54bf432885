"""One rank, as torchrun starts it: `python -m whorl.parallel.rank FOLDER FUNCTION ARGS…`. Not for people.

It calls the function and leaves its result in FOLDER. A rank that was asked to leave ends with 0, so
that torchrun does not kill the others while they finish; `launch` reads the code from the file.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from whorl.base.collector import end_at_once
from whorl.base.errors import DataError, FaultError, InputError, WhorlError
from whorl.base.names import resolve
from whorl.parallel.group import leave_group
from whorl.parallel.launch import write_report

LOOK = 1.0  # seconds between looks at the parent


def main(folder: str, function: str, *args: str) -> int:
    end_at_once()
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    rank = int(os.environ["RANK"])
    try:
        code = resolve(function)(*args)
    except WhorlError as error:
        kinds = (InputError, DataError, FaultError)
        kind = next((k.__name__ for k in kinds if isinstance(error, k)), "FaultError")
        write_report(Path(folder), rank, 1, kind, str(error))
        return 1
    write_report(Path(folder), rank, code if isinstance(code, int) else 0)
    leave_group()
    return 0


def _leave_with_parent(parent: int) -> None:
    """An agent that was killed cannot end its ranks."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
