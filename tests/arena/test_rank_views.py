"""The win matrix, ratings over time and by category, pictures: each against the plain way to have it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whorl.arena import (
    Battle,
    Battles,
    Judge,
    fit_bradley_terry,
    ratings_by_category,
    ratings_over_time,
    simulate_battles,
    win_matrix,
    write_plot,
)
from whorl.arena.battles import WINNERS
from whorl.arena.ratings import Ratings
from whorl.arena.simulation import synthetic_strengths
from whorl.base.errors import InputError


def rows(count: int = 200) -> list[Battle]:
    random = np.random.default_rng(1)
    made = []
    for number in range(count):
        a, b = random.choice(4, 2, replace=False)
        made.append(
            Battle(
                model_a="wxyz"[a], model_b="wxyz"[b], winner=WINNERS[random.integers(4)],
                time=1000.0 + number, category=("code", "prose", "")[number % 3],
            )
        )  # fmt: skip
    return made


def test_the_win_matrix_counted_by_hand() -> None:
    made = rows()
    matrix = win_matrix(made)
    for i, one in enumerate(matrix.models):
        for j, other in enumerate(matrix.models):
            met = [row for row in made if {row.model_a, row.model_b} == {one, other} and one != other]
            points = sum(
                0.5
                if row.winner.startswith("tie")
                else float((row.winner == "model_a") == (row.model_a == one))
                for row in met
            )
            assert (matrix.battles[i, j], matrix.points[i, j]) == (len(met), points)
    assert np.isnan(matrix.share[0, 0])
    np.testing.assert_allclose((matrix.share + matrix.share.T)[~np.eye(4, dtype=bool)], 1)
    # Sufficient statistics: the fit expects of each model exactly the points that it has.
    expected = fit_bradley_terry(made).probability() * matrix.battles
    np.testing.assert_allclose(expected.sum(axis=1), matrix.points.sum(axis=1), atol=1e-8)


def test_over_time_is_a_fit_to_each_stretch_from_the_start() -> None:
    made = rows()
    late = [Battle(model_a="new", model_b="w", winner=WINNERS[n % 2], time=1150.5 + n) for n in range(20)]
    untimed = [Battle(model_a="w", model_b="x", winner="model_a")] * 50
    line = ratings_over_time(made + late + untimed, times=4)
    assert line.times[-1] == 1199.0 and len(line.times) == 4
    for row, moment in enumerate(line.times):
        part = fit_bradley_terry([b for b in made + late if b.time is not None and b.time <= moment])
        for model, rating, low in zip(part.models, part.rating, part.low, strict=True):
            column = line.models.index(model)
            assert (line.rating[row, column], line.low[row, column]) == (rating, low)
    assert np.isnan(line.rating[0, line.models.index("new")])
    at = ratings_over_time(made, times=[900, 1100], anchor="w", anchor_rating=1300)
    assert np.all(np.isnan(at.rating[0])) and at.rating[1, 0] == pytest.approx(1300)
    with pytest.raises(InputError, match="no battle has a time"):
        ratings_over_time(untimed)
    with pytest.raises(InputError, match="times 0"):
        ratings_over_time(made, times=0)


def test_by_category() -> None:
    made = rows()
    found = ratings_by_category(made)
    assert set(found) == {"code", "prose"}
    alone = fit_bradley_terry([row for row in made if row.category == "code"])
    assert found["code"].rating.tolist() == alone.rating.tolist()


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    made = rows()
    made += [Battle(model_a="<b>&\"'", model_b="w", winner="model_a")]
    made += [Battle(model_a="far " * 30, model_b="away", winner="tie")]
    return fit_bradley_terry(Battles.from_rows(made))


def test_svg_is_xml_with_a_dot_for_each_model(tmp_path: Path, ratings: Ratings) -> None:
    root = ET.parse(write_plot(ratings, tmp_path / "p.svg", title="A < B")).getroot()
    ns = {"s": "http://www.w3.org/2000/svg"}
    titles = [element.text or "" for element in root.iterfind(".//s:circle/s:title", ns)]
    assert len(titles) == 7
    assert any(title.startswith("<b>&\"': ") and "to ∞" in title for title in titles)
    height = float(root.attrib["height"])
    for circle in root.iterfind(".//s:circle", ns):
        assert 0 < float(circle.attrib["cx"]) < 820 and 0 < float(circle.attrib["cy"]) < height
    # Higher ratings stand further right.
    order = [float(re.search(r": ([-\d.]+),", title)[1]) for title in titles]  # type: ignore[index]
    places = [float(circle.attrib["cx"]) for circle in root.iterfind(".//s:circle", ns)]
    assert np.argsort(order, kind="stable").tolist() == np.argsort(places, kind="stable").tolist()


def test_html_escapes_names_and_says_the_notes(tmp_path: Path, ratings: Ratings) -> None:
    text = write_plot(ratings, tmp_path / "p.html").read_text()
    tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)

    Tags().feed(text)
    assert "b" not in tags and tags.count("svg") == 1 and "script" not in tags
    assert tags.count("li") == len(ratings.notes) > 0
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_png_is_a_picture_with_something_on_it(tmp_path: Path, ratings: Ratings) -> None:
    image = Image.open(write_plot(ratings, tmp_path / "p.png"))
    assert image.width == 1640
    assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10


def test_another_ending_is_refused(tmp_path: Path, ratings: Ratings) -> None:
    with pytest.raises(InputError, match=r"must end in \.svg, \.html, \.png"):
        write_plot(ratings, tmp_path / "p.pdf")


def test_a_single_pair_and_a_hundred_models_are_drawn(tmp_path: Path) -> None:
    for models in (2, 100):
        battles = simulate_battles(synthetic_strengths(models), [Judge()], 4000)
        root = ET.parse(write_plot(fit_bradley_terry(battles), tmp_path / "p.svg")).getroot()
        assert len(root.findall(".//{http://www.w3.org/2000/svg}circle")) == models
