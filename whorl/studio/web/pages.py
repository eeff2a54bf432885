"""Pages as HTML: one shell around each, and nothing in it that a browser would have to guess."""

from __future__ import annotations

from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from whorl import __version__
from whorl.arena.store import Person

STATIC = resources.files("whorl.studio") / "static"


class Place(NamedTuple):
    """An entry of the navigation: where it leads, its word, its icon, and whether only admins see it."""

    path: str
    word: str
    icon: str
    admin: bool = False


# In the order of the loop: talk, judge, see who leads, see what was trained, on what.
PLACES = (
    Place("/chat", "Chat", "chat"),
    Place("/arena", "Arena", "arena"),
    Place("/board", "Board", "board"),
    Place("/runs", "Runs", "runs"),
    Place("/data", "Data", "data"),
    Place("/models", "Models", "cube"),
    Place("/people", "People", "people", admin=True),
)


class Pages:
    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("whorl.studio", "templates"), undefined=StrictUndefined,
            autoescape=select_autoescape(default=True, default_for_string=True), trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip

    def page(
        self, request: Request, template: str, person: Person | None, *, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """A page of the shell. `template` extends shell.html; `person` None is a stranger's page."""
        root = str(request.scope.get("root_path") or "")
        way = request.url.path.removeprefix(root)
        places = [one for one in PLACES if person is not None and (not one.admin or person.role == "admin")]
        html = self._templates.get_template(template).render(
            root=root, person=person, places=places, version=__version__,
            here=next((one.path for one in places if way.startswith(one.path)), ""), **values,
        )  # fmt: skip
        # A page holds what its person may see: never another's, and never an old one.
        return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})

    def part(self, template: str, **values: Any) -> str:
        """A piece of a page, for a script to put in its place."""
        return self._templates.get_template(template).render(**values)
