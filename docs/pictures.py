"""The README's pictures, made from a real run: `python docs/pictures.py RUN` writes docs/report*.png.

Renders the run's report with Chromium (or Chrome) without a window, once light and once dark.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from whorl.base.report import write_report

DOCS = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SIZE = (1240, 1180)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/pictures.py RUN")
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        sys.exit("no Chromium or Chrome on the path; on Debian: apt install chromium")
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(sys.argv[1], Path(folder) / "report.html")
        for name, scheme in (("report.png", "1"), ("report-dark.png", "0")):
            command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            command += [
                f"--blink-settings=preferredColorScheme={scheme}",
                f"--user-data-dir={folder}/profile",
            ]
            command += [f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={DOCS / name}", page.as_uri()]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            print(DOCS / name)


if __name__ == "__main__":
    main()
