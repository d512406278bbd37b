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
from hamnet.evaluation.report import FIGURES, read_history, report_html, write_results
from tests.page import Page


@pytest.fixture
def evaluation(water_records, water_basis, predict_from, rng):
    pairs = []
    for record in water_records:
        noise = 1e-4 * rng.standard_normal(record.hamiltonian.shape)
        pairs.append((predict_from(record, water_basis, record.hamiltonian + noise), record))
    pairs.append((HamnetError("the model does not know <Xx>"), water_records[0]))
    return evaluate(pairs, water_basis)


@pytest.fixture
def history(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(
        "step,seconds,train_loss,val_h_mae_uha,val_eps_occ_mae_mev,val_homo_mae_mev\n"
        "1,0.5,1.0,,,\n2,1.0,0.5,300,20,25\n3,1.5,0.25,150,10,12\n"
    )
    return path


def test_page_is_complete_and_self_contained(evaluation, history, tmp_path):
    provenance = {"model": "runs/<water>", "data": "water.h5", "split": "test", "seed": {"a": 1}}
    write_results(evaluation, tmp_path / "out", provenance, history)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
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


def test_every_picture_is_also_a_file(evaluation, history, tmp_path):
    write_results(evaluation, tmp_path, {}, history)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    drawn, vectors = ({p.stem for p in (tmp_path / FIGURES).glob(e)} for e in ("*.png", "*.svg"))
    assert drawn == vectors
    assert len(drawn) == page.tags.count("figure")
    for path in (tmp_path / FIGURES).glob("*.svg"):
        ElementTree.parse(path)
        assert "var(--" not in path.read_text(encoding="utf-8")
    for path in (tmp_path / FIGURES).glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10  # not blank


def test_page_follows_theme_and_width(evaluation):
    text = report_html(evaluation, {})
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "var(--ink)" in text.split("</style>")[1]
    assert re.search(r"<svg[^>]*viewBox", text)
    assert not re.search(r'<svg[^>]* (width|height)="', text)


def test_the_same_results_give_the_same_page(evaluation):
    assert report_html(evaluation, {"model": "m"}) == report_html(evaluation, {"model": "m"})


def test_page_without_any_prediction(water_records, water_basis):
    failed = evaluate([(HamnetError("refused"), water_records[0])], water_basis)
    words = " ".join(Page(report_html(failed, {})).texts)
    assert "refused" in words
    assert "1 could not be predicted" in words


def test_history_skips_empty_cells(history):
    columns = read_history(history)
    assert np.array_equal(columns["val_h_mae_uha"][0], [1.0, 1.5])
    assert np.array_equal(columns["val_h_mae_uha"][1], [300, 150])
    assert len(columns["train_loss"][0]) == 3


def test_links_within_the_page_lead_somewhere(evaluation):
    text = report_html(evaluation, {})
    targets = re.findall(r'href="#([^"]+)"', text)
    assert len(targets) > 4
    assert set(targets) == set(re.findall(r'<section id="([^"]+)"', text))


def test_large_tables_of_shells_are_folded_away(evaluation):
    folded = Page(report_html(evaluation, {})).tags.count("details")
    more = dict.fromkeys("abcdefg")
    kinds = [
        replace(block.first, number=2 + n)
        for n, _ in enumerate(more)
        for block in (evaluation.blocks[0],)
    ]
    blocks = [replace(evaluation.blocks[0], first=kind, second=kind) for kind in kinds]
    many = replace(evaluation, blocks=(*evaluation.blocks, *blocks))
    assert Page(report_html(many, {})).tags.count("details") == folded + 1


def test_standard_deviations_get_a_calibration(evaluation, rng):
    """Errors drawn from the predicted distribution are covered as they should be."""
    template = evaluation.frames[0]
    frames = []
    for k in range(4000):
        std = float(rng.uniform(1.0, 10.0))
        metrics = {**template.metrics, "homo_mae_mev": abs(float(rng.normal(0.0, std)))}
        frames.append(replace(template, index=k, metrics={**metrics, "homo_std_mev": std}))
    (found,) = calibrations(frames)
    assert (found.name, found.unit, len(found.std)) == ("homo", "mev", 4000)
    for level in (0.5, 0.68, 0.95):
        assert found.coverage(level) == pytest.approx(level, abs=0.03)
    assert 0.3 < found.rank_correlation < 0.8
    few = replace(evaluation, frames=tuple(frames[:50]))
    assert "Calibration" in report_html(few, {})
    assert "Calibration" not in report_html(evaluation, {})


def test_distance_errors_add_up_to_the_off_diagonal_blocks(evaluation):
    pairs = [block for block in evaluation.blocks if not block.on_site]
    total = sum(block.count * block.mae_uha for block in pairs)
    sizes = {"H-H": 2 * 5 * 5, "H-O": 2 * 5 * 14}  # both triangles of the matrix
    assert {row.elements for row in evaluation.distances} == set(sizes)
    by_distance = sum(sizes[row.elements] * row.count * row.mae_uha for row in evaluation.distances)
    assert by_distance == pytest.approx(total, rel=1e-10)
    assert all(0.5 < row.distance_angstrom < 2.5 for row in evaluation.distances)
