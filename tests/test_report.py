"""The report is one page that parses, explains itself and points to nothing outside."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from hamnet.errors import HamnetError
from hamnet.evaluation import evaluate
from hamnet.evaluation.calibration import calibrations
from hamnet.evaluation.html import digits
from hamnet.evaluation.report import (
    FIGURES,
    learning_curves,
    report_html,
    report_sections,
    write_results,
)
from tests.page import Page

PROVENANCE = {"model": "runs/<water>", "data": "water.h5", "split": "test", "seed": {"a": 1}}


@pytest.fixture(scope="module")
def evaluation(water_records, water_basis, predict_from):
    rng = np.random.default_rng(20240229)
    pairs = []
    for record in water_records:
        noise = 1e-4 * rng.standard_normal(record.hamiltonian.shape)
        pairs.append((predict_from(record, water_basis, record.hamiltonian + noise), record))
    pairs.append((HamnetError("the model does not know <Xx>"), water_records[0]))
    return evaluate(pairs, water_basis)


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "history.csv"
    path.write_text(
        "step,seconds,train_loss,val_h_mae_uha,val_eps_occ_mae_mev,val_homo_mae_mev\n"
        "1,0.5,1.0,,,\n2,1.0,0.5,300,20,25\n3,1.5,0.25,150,10,12\n"
    )
    return path


@pytest.fixture(scope="module")
def out(evaluation, history, tmp_path_factory):
    """A folder with a report."""
    folder = tmp_path_factory.mktemp("report")
    write_results(evaluation, folder, PROVENANCE, history)
    return folder


@pytest.fixture(scope="module")
def text(out):
    return (out / "report.html").read_text(encoding="utf-8")


def test_page_is_complete_and_self_contained(evaluation, text):
    without_pixels = re.sub(r"data:image/png;base64,[^\"]*", "data:", text)
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", without_pixels)
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert "script" not in page.tags
    words = " ".join(page.texts)
    for expected in (
        "Orbital energies",
        "Matrix elements",
        "H-O",
        "O (on site)",
        "Learning curves",
        "Worst frames",
        "the model does not know <Xx>",
        "runs/<water>",
        "seed.a",
        f"{digits('h_mae_uha', evaluation.metrics['h_mae_uha'])} µHa",
    ):
        assert expected in words
    # 3 of orbital energies, 3 of matrix elements, 6 of blocks, 3 learning curves, 3 molecules
    assert page.tags.count("svg") == page.tags.count("figure") == 18


def test_every_picture_is_also_a_file(out, text):
    drawn, vectors = ({p.stem for p in (out / FIGURES).glob(e)} for e in ("*.png", "*.svg"))
    assert drawn == vectors
    assert len(drawn) == Page(text).tags.count("figure")
    for path in (out / FIGURES).glob("*.svg"):
        ElementTree.parse(path)
        assert "var(--" not in path.read_text(encoding="utf-8")
    for path in (out / FIGURES).glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10  # not blank


def test_page_follows_theme_and_width(text):
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "var(--ink)" in text.split("</style>")[1]
    assert re.search(r"<svg[^>]*viewBox", text)
    assert not re.search(r'<svg[^>]* (width|height)="', text)


def test_links_within_the_page_lead_somewhere(text):
    targets = re.findall(r'<a href="#([^"]+)"', text)
    assert len(targets) > 4
    assert targets == re.findall(r'<section id="([^"]+)"', text)


def test_the_same_results_give_the_same_page(evaluation, history, text):
    assert report_html(evaluation, PROVENANCE, learning_curves(history)) == text


def test_page_without_any_prediction(water_records, water_basis):
    failed = evaluate([(HamnetError("refused"), water_records[0])], water_basis)
    words = " ".join(Page(report_html(failed, {})).texts)
    assert "refused" in words
    assert "1 could not be predicted" in words


def test_history_skips_empty_cells(history):
    columns = learning_curves(history)
    assert np.array_equal(columns["val_h_mae_uha"][0], [1.0, 1.5])
    assert np.array_equal(columns["val_h_mae_uha"][1], [300, 150])
    assert len(columns["train_loss"][0]) == 3


def section(evaluation, title):
    found = [s for s in report_sections(evaluation, {}, {}, ()) if s.title.startswith(title)]
    return found[0] if found else None


def test_many_maps_of_shells_are_folded_away(evaluation):
    one = evaluation.blocks[0]
    kinds = [replace(one.first, number=2 + n) for n in range(7)]
    more = [replace(one, first=kind, second=kind) for kind in kinds]
    many = replace(evaluation, blocks=(*evaluation.blocks, *more))
    few, folded = (section(e, "Error by element") for e in (evaluation, many))
    assert (len(few.pictures), len(few.folded[1])) == (6, 0)
    assert (len(folded.pictures), len(folded.folded[1])) == (2, 11)


def test_standard_deviations_get_a_calibration(evaluation):
    """Errors drawn from the predicted distribution are covered as they should be."""
    rng = np.random.default_rng(4)
    template = evaluation.frames[0]
    frames = []
    for _ in range(4000):
        std = float(rng.uniform(1.0, 10.0))
        drawn = {"homo_mae_mev": abs(float(rng.normal(0.0, std))), "homo_std_mev": std}
        frames.append(replace(template, metrics={**template.metrics, **drawn}))
    (found,) = calibrations(frames)
    assert (found.name, found.unit, len(found.std)) == ("homo", "mev", 4000)
    for level in (0.5, 0.68, 0.95):
        assert found.coverage(level) == pytest.approx(level, abs=0.03)
    assert 0.3 < found.rank_correlation < 0.8
    few = section(replace(evaluation, frames=tuple(frames[:50])), "Calibration")
    assert [picture.name for picture in few.pictures] == [
        *("calibration-coverage", "calibration-homo")
    ]
    assert section(evaluation, "Calibration") is None


def test_distance_errors_add_up_to_the_off_diagonal_blocks(evaluation):
    pairs = [block for block in evaluation.blocks if not block.on_site]
    total = sum(block.count * block.mae_uha for block in pairs)
    sizes = {"H-H": 2 * 5 * 5, "H-O": 2 * 5 * 14}  # both triangles of the matrix
    assert {row.elements for row in evaluation.distances} == set(sizes)
    by_distance = sum(sizes[row.elements] * row.count * row.mae_uha for row in evaluation.distances)
    assert by_distance == pytest.approx(total, rel=1e-10)
    assert all(0.5 < row.distance_angstrom < 2.5 for row in evaluation.distances)
