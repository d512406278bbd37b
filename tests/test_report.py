"""The report is one page that parses, explains itself and points to nothing outside."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from hamnet.errors import HamnetError
from hamnet.evaluation import evaluate
from hamnet.evaluation.report import read_history, report_html, write_results

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags match, and collects what the page holds."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.links, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href", "action")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


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
        "Learning curve",
        "the model does not know <Xx>",
        "runs/<water>",
        "seed.a",
        f"{evaluation.metrics['h_mae_uha']:.4g}",
    ):
        assert expected in words
    # 3 ladders, 2 of matrix elements, 4 heat maps, 3 learning curves
    assert page.tags.count("svg") == page.tags.count("figure") == 12


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
