import math

import numpy as np
import pytest

from bct_onnx.tasks.deviation import DeviationSums, log_sum_exp
from bct_onnx.tasks.tokens import Array


def filled(reference: list[Array], candidate: list[Array], *, logits: bool = True) -> DeviationSums:
    sums = DeviationSums(logits=logits)
    for r, c in zip(reference, candidate, strict=True):
        sums.add(r, c)
    return sums


def test_figures_are_those_of_scipy() -> None:
    import scipy.special
    import scipy.stats

    rng = np.random.default_rng(0)
    left = [rng.normal(0, 5, (n, 7)).astype(np.float32) for n in (1, 4, 3)]
    right = [rows + rng.normal(0, 0.5, rows.shape).astype(np.float32) for rows in left]
    away = filled(left, right).total()
    r, c = np.concatenate(left), np.concatenate(right)
    p, q = scipy.special.softmax(r.astype(np.float64), axis=1), scipy.special.softmax(c.astype(np.float64), axis=1)
    assert away is not None
    assert away.kl == pytest.approx(float(scipy.stats.entropy(p, q, axis=1).mean()), rel=1e-5)
    assert away.agreement == pytest.approx(float((r.argmax(1) == c.argmax(1)).mean()))
    assert away.sqnr_db == pytest.approx(10 * math.log10(np.square(r).sum() / np.square(r - c).sum()), rel=1e-5)


def test_equal_is_exact_and_a_shift_of_all_logits_has_no_divergence() -> None:
    rows = np.array([1.0, 2.0, -3.0])
    same = filled([rows], [rows]).total()
    assert same is not None and (same.sqnr_db, same.kl, same.agreement) == (math.inf, 0.0, 1.0)
    shifted = filled([rows], [rows + 4]).total()
    assert shifted is not None and shifted.sqnr_db < 0 and shifted.kl == pytest.approx(0, abs=1e-6)


def test_embeddings_and_single_numbers_have_a_sqnr_only() -> None:
    for logits, rows in ((False, np.array([3.0, 4.0])), (True, np.array([5.0]))):
        away = filled([rows], [rows * 1.1], logits=logits).total()
        assert away is not None and away.sqnr_db == pytest.approx(20, abs=1e-4)
        assert (away.kl, away.agreement) == (None, None)


def test_nan_shows() -> None:
    away = filled([np.array([1.0, 2.0])] * 2, [np.array([np.nan, 2.0]), np.array([1.0, 2.0])]).total()
    assert away is not None and math.isnan(away.sqnr_db) and away.kl is not None and math.isnan(away.kl)
    assert away.agreement == 0.5


def test_other_shapes_do_not_compare() -> None:
    assert filled([np.zeros(3)], [np.zeros(4)]).total() is None


def test_large_logits_do_not_overflow() -> None:
    shifted, log_sum = log_sum_exp(np.array([[1e30, 0.0], [-500.0, -500.0]], np.float32))
    assert shifted[:, 0].tolist() == [0.0, 0.0] and log_sum == pytest.approx([0.0, math.log(2)])
