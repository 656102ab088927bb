# SPDX-License-Identifier: Apache-2.0
"""Selections against hand-computed values and a token-by-token brute force (Eq. 3 to 5, App. K)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from t3s_megatron.method.selection import (
    MASKING_BASELINES,
    METHODS,
    READABLE,
    Method,
    anchors,
    delta_c,
    keep_mask,
)
from t3s_megatron.method.selection_counts import SelectionCounts, selection_counts

# Token:            0      1      2      3      4      5
C_0 = np.array([-1.00, -2.00, -0.50, -3.00, -0.25, -2.00], dtype=np.float32)
C_B = np.array([-0.50, -2.50, -0.50, -1.00, -0.75, -4.00], dtype=np.float32)
C_REF = np.array([-0.50, -3.00, -0.50, -1.00, -0.50, -1.00], dtype=np.float32)
ENTROPY = np.array([0.25, 1.50, 0.25, 3.00, 0.00, 2.00], dtype=np.float32)
DELTA = np.array([0.50, -0.50, 0.00, 2.00, -0.50, -2.00], dtype=np.float32)


def kept(method: str, **changed) -> list[bool]:
    arguments = dict(n=6, c_0=C_0, c_b=C_B, seed=1, c_ref=C_REF, entropy=ENTROPY) | changed
    return keep_mask(method, **arguments).tolist()


logits = st.integers(-8, 0).map(lambda k: k / 4)  # few values, so that ties are common


@st.composite
def scored_corpora(draw):
    n = draw(st.integers(1, 40))
    arrays = hnp.arrays(np.float32, n, elements=logits)
    return draw(arrays), draw(arrays)


# ------------------------------------------------------------------------------- delta_c, anchors


def test_delta_c_by_hand():
    delta = delta_c(C_B, C_0)
    assert delta.dtype == np.float32
    np.testing.assert_array_equal(delta, DELTA)


def test_delta_c_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(5,\).*\(6,\)"):
        delta_c(C_B[:5], C_0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["theta_b", "theta_0"])
def test_delta_c_counts_what_is_not_finite_and_names_the_first(bad, name):
    damaged = C_0.copy()
    damaged[[2, 4]] = bad
    pair = (damaged, C_0) if name == "theta_b" else (C_B, damaged)
    with pytest.raises(ValueError, match=f"2 log-probs at {name} .* token 2"):
        delta_c(*pair)


def test_a_tie_is_not_an_anchor():
    assert anchors(DELTA).tolist() == [True, False, False, True, False, False]
    assert anchors(np.array([0.0, -0.0], dtype=np.float32)).tolist() == [False, False]


@pytest.mark.parametrize("tau, expected", [(0.5, [3]), (-0.5, [0, 2, 3]), (2.0, [])])
def test_a_threshold_is_strict_too(tau, expected):
    assert np.flatnonzero(anchors(DELTA, tau)).tolist() == expected


# -------------------------------------------------------------------------------------- keep_mask


def test_t3s_masks_the_anchors_and_inverse_everything_else():
    assert kept("t3s") == [False, True, True, False, True, True]
    assert kept("inverse") == [True, False, False, True, False, False]


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if not m.selects])
def test_sft_and_rrt_keep_every_token(method):
    assert kept(method, c_0=None, c_b=None) == [True] * 6


def test_confidence_baselines_mask_as_many_as_t3s():
    """Two anchors, so two are masked: c_0 is highest at 4 and 2, lowest at 3 and (1, 5 tie) 1."""
    assert kept("mask-top-confidence") == [True, True, False, True, False, True]
    assert kept("mask-bottom-confidence") == [True, False, True, False, True, True]


@pytest.mark.parametrize("method", ["mask-top-confidence", "mask-bottom-confidence"])
def test_ties_in_confidence_are_cut_by_position(method):
    flat = np.full(6, -1.0, dtype=np.float32)
    assert kept(method, c_0=flat, c_b=None, share=0.5) == [False] * 3 + [True] * 3


@pytest.mark.parametrize("share, masked", [(1 / 6, 1), (0.5, 3), (2 / 3, 4), (0.0, 0), (1.0, 6)])
@pytest.mark.parametrize("method", MASKING_BASELINES)
def test_a_share_of_its_own_is_exact(method, share, masked):
    assert kept(method, share=share).count(False) == masked


@pytest.mark.parametrize("method", [m for m in MASKING_BASELINES if m != "keep-top-delta"])
def test_a_share_of_its_own_needs_no_theta_b(method):
    assert kept(method, c_b=None, share=0.5) == kept(method, share=0.5)


def test_keep_top_delta_needs_theta_b_even_with_a_share():
    with pytest.raises(ValueError, match="keep-top-delta needs log-probs at theta_b"):
        kept("keep-top-delta", c_b=None, share=0.5)


def test_keep_top_delta_by_hand():
    """Two anchors, so two are masked: token 5 at -2, and token 1 of the two that tie at -0.5."""
    assert kept("keep-top-delta") == [True, False, True, True, True, False]
    assert kept("keep-top-delta", share=5 / 6) == [False, False, False, True, False, False]


def test_keep_top_entropy_by_hand():
    """Two anchors, so two are masked: token 4 at 0, and token 0 of the two that tie at 0.25."""
    assert kept("keep-top-entropy") == [False, True, True, True, False, True]
    assert kept("keep-top-entropy", c_0=None, c_b=None, share=5 / 6).index(True) == 3


def test_rho_by_hand():
    """Excess loss c_ref - c_0: 0.5, -1, 0, 2, -0.25, 1."""
    assert kept("rho") == [True, False, True, True, False, True]
    assert kept("rho", c_b=None, share=4 / 6) == [False, False, False, True, False, True]


@pytest.mark.parametrize(
    ("method", "missing", "said"),
    [
        ("rho", "c_ref", "rho needs log-probs of a reference"),
        ("keep-top-entropy", "entropy", "keep-top-entropy needs entropies at theta_0"),
    ],
)
def test_what_else_is_missing_is_named(method, missing, said):
    with pytest.raises(ValueError, match=said):
        kept(method, **{missing: None})


# ---------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("tau, temperature", [(0.0, 1.0), (0.5, 0.1), (-0.5, 3.0)])
def test_soft_weights_are_pytorch_s_sigmoid(tau, temperature):
    soft = keep_mask("t3s-soft", n=6, c_0=C_0, c_b=C_B, tau=tau, temperature=temperature)
    wanted = torch.sigmoid((tau - torch.from_numpy(DELTA).double()) / temperature)
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft, wanted.numpy(), rtol=1e-6)


@given(scored_corpora())
def test_soft_weights_become_the_mask_as_the_temperature_falls(scored):
    c_0, c_b = scored
    soft, hard = (
        keep_mask(m, n=len(c_0), c_0=c_0, c_b=c_b, **more)
        for m, more in (("t3s-soft", {"temperature": 1e-4}), ("t3s", {}))
    )
    tie = c_0 == c_b
    np.testing.assert_array_equal(soft[~tie], hard[~tie])
    np.testing.assert_array_equal(soft[tie], 0.5)


@pytest.mark.parametrize("method, temperature", [("t3s", 1.0), ("t3s-soft", None), ("t3s-soft", 0)])
def test_a_temperature_is_given_where_it_means_something(method, temperature):
    with pytest.raises(ValueError, match="temperature"):
        kept(method, temperature=temperature)


def test_counts_of_weights():
    counts = selection_counts(np.array([0.5, 0, 2.0], dtype=np.float32), None)
    assert counts == {"target_tokens": 3, "kept": 2, "masked": 1, "mean_weight": 1.25,
                      "masked_share": pytest.approx(1 / 3)}  # fmt: skip


# -------------------------------------------------------------------------- losses of single steps


def test_dft_is_the_gradient_of_minus_p():
    """L = -sg(p) log p has the gradient of -p (arXiv 2508.05629)."""
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    c = logits.log_softmax(-1)[:, 3]
    weights = METHODS["dft"].weigh(c.detach().exp(), None)
    (got,) = torch.autograd.grad(-(weights * c).sum(), logits)
    (wanted,) = torch.autograd.grad(-logits.softmax(-1)[:, 3].sum(), logits)
    torch.testing.assert_close(got, wanted)


def test_profit_counts_what_reaches_the_threshold():
    p = torch.tensor([0.05, 0.1, 0.5, 0.0999])
    assert METHODS["profit"].weigh(p, 0.1).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("share", "left_out"),
    [(0.25, [3]), (0.5, [1, 3]), (0.6, [1, 3]), (0.9, [0, 1, 3]), (0.1, [])],
)
def test_tail_sft_leaves_out_whose_loss_has_fallen_furthest(share, left_out):
    """Losses fall by 0.1, 0.5, -0.2 and 0.7; one sample always stays."""
    found = METHODS["tail-sft"].leaves_out(np.array([0.1, 0.5, -0.2, 0.7]), share)
    assert np.flatnonzero(found).tolist() == left_out


def test_tail_sft_goes_by_position_where_nothing_has_moved_and_never_takes_nan_first():
    leaves_out = METHODS["tail-sft"].leaves_out
    assert np.flatnonzero(leaves_out(np.zeros(8), 0.5)).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(leaves_out(np.array([np.nan, 0.1, 0.2, 0.3]), 0.5)).tolist() == [2, 3]


def test_a_random_mask_with_a_share_needs_no_log_probs():
    assert kept("random", c_0=None, c_b=None, share=0.5).count(False) == 3


def test_a_random_mask_depends_on_its_seed_only():
    def mask(seed, c_0):
        return keep_mask("random", n=1000, c_0=c_0, c_b=None, seed=seed, share=0.2)

    some = np.linspace(-5, 0, 1000, dtype=np.float32)
    np.testing.assert_array_equal(mask(7, None), mask(7, some))
    assert (mask(7, None) != mask(8, None)).any()


def test_random_masks_every_token_equally_often():
    masked = sum(
        ~keep_mask("random", n=20, c_0=None, c_b=None, seed=seed, share=0.25)
        for seed in range(2000)
    )
    # 500 expected each, standard deviation 19.4: five of them either way.
    assert masked.sum() == 2000 * 5 and abs(masked - 500).max() < 97


def test_tau_moves_the_budget_of_the_baselines_as_well():
    assert kept("t3s", tau=0.5) == [True, True, True, False, True, True]
    for method in MASKING_BASELINES:
        assert kept(method, tau=0.5).count(False) == 1


@pytest.mark.parametrize("method", ["t3s", "inverse", *MASKING_BASELINES])
@pytest.mark.parametrize("missing", ["c_0", "c_b"])
def test_missing_log_probs_are_named(method, missing):
    with pytest.raises(ValueError, match=f"{method} needs log-probs"):
        kept(method, **{missing: None})


@pytest.mark.parametrize("method", ["mask-top-confidence", "mask-bottom-confidence"])
def test_confidence_needs_theta_0_even_with_a_share(method):
    with pytest.raises(ValueError, match="theta_0"):
        kept(method, c_0=None, c_b=None, share=0.5)


@pytest.mark.parametrize("method", ["mask-top-confidence", "mask-bottom-confidence"])
def test_confidence_has_to_be_finite_even_with_a_share(method):
    damaged = np.where(np.arange(6) == 3, np.nan, C_0).astype(np.float32)
    with pytest.raises(ValueError, match="1 log-probs at theta_0 .* token 3"):
        kept(method, c_0=damaged, c_b=None, share=0.5)


@pytest.mark.parametrize("share", [-0.5, 1.5, np.nan])
def test_a_share_lies_between_0_and_1(share):
    with pytest.raises(ValueError, match="masked share"):
        kept("random", share=share)


@pytest.mark.parametrize("method", ["t3s", "inverse", "sft", "rrt"])
def test_a_share_is_refused_where_it_would_be_ignored(method):
    with pytest.raises(ValueError, match=f"does not apply to '{method}'"):
        kept(method, share=0.5)


@pytest.mark.parametrize("short", [dict(c_0=C_0[:5]), dict(c_b=C_B[:5]), dict(n=7)])
def test_log_probs_have_to_be_those_of_the_corpus(short):
    with pytest.raises(ValueError, match="the corpus has"):
        kept("t3s", **short)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="unknown method 't4s'"):
        kept("t4s")


@given(scored_corpora())
def test_t3s_and_inverse_are_complements_and_equal_the_brute_force(scored):
    c_0, c_b = scored
    t3s, inverse = (keep_mask(m, n=len(c_0), c_0=c_0, c_b=c_b) for m in ("t3s", "inverse"))
    assert t3s.tolist() == [not (b > a) for a, b in zip(c_0.tolist(), c_b.tolist(), strict=True)]
    np.testing.assert_array_equal(inverse, ~t3s)


@given(scored_corpora(), st.sampled_from(MASKING_BASELINES), st.integers(0, 5))
def test_baselines_mask_exactly_as_many_as_there_are_anchors(scored, method, seed):
    c_0, c_b = scored
    also = {"c_ref": c_b, "entropy": -c_0}
    keep = keep_mask(method, n=len(c_0), c_0=c_0, c_b=c_b, seed=seed, **also)
    assert keep.dtype == bool and (~keep).sum() == sum(b > a for a, b in zip(c_0, c_b, strict=True))


@given(scored_corpora(), st.floats(0, 1))
def test_confidence_masks_equal_a_sorted_list(scored, share):
    c_0, _ = scored
    n, masked = len(c_0), round(share * len(c_0))
    sign = {"mask-top-confidence": -1, "mask-bottom-confidence": 1}
    for method, s in sign.items():
        expected = sorted(range(n), key=lambda i, s=s: (s * c_0[i], i))[:masked]
        keep = keep_mask(method, n=n, c_0=c_0, c_b=None, share=share)
        assert np.flatnonzero(~keep).tolist() == sorted(expected)


@given(scored_corpora(), st.floats(0, 1))
def test_keep_top_delta_keeps_what_a_partition_puts_on_top(scored, share):
    """Against the definition of Rho-1 (top k of c_ref - c) with theta_b as the reference; which of
    several that tie is kept may differ, the values that are kept may not."""
    c_0, c_b = scored
    n = len(c_0)
    keep = keep_mask("keep-top-delta", n=n, c_0=c_0, c_b=c_b, share=share)
    k = n - round(share * n)
    top = np.sort(c_b - c_0)[::-1][:k]
    np.testing.assert_array_equal(np.sort((c_b - c_0)[keep])[::-1], top)


# ------------------------------------------------------------------------------ figures of a mask


def test_counts_by_hand():
    counts = selection_counts(keep_mask("t3s", n=6, c_0=C_0, c_b=C_B), DELTA)
    assert counts == {
        "target_tokens": 6,
        "kept": 4,
        "masked": 2,
        "masked_share": pytest.approx(1 / 3),
        "anchors": 2,
        "anchor_share": pytest.approx(1 / 3),
        "ties": 1,
        "mean_delta_anchor": 1.25,
        "mean_delta_other": -0.75,
    }


def test_counts_of_another_mask_still_speak_of_the_anchors():
    counts = selection_counts(np.array([True] * 5 + [False]), DELTA)
    assert counts["masked"] == 1 and counts["anchors"] == 2


def test_counts_without_theta_b():
    counts = selection_counts(np.array([True, False]), None)
    assert counts == {"target_tokens": 2, "kept": 1, "masked": 1, "masked_share": 0.5}


@pytest.mark.parametrize(
    "delta, empty", [([1.0], "mean_delta_other"), ([0.0], "mean_delta_anchor")]
)
def test_the_mean_of_an_empty_group_is_none(delta, empty):
    delta = np.array(delta, dtype=np.float32)
    assert selection_counts(~anchors(delta), delta)[empty] is None


# ------------------------------------------------------------------------------- table of methods


def test_every_method_is_declared_under_its_name_and_says_what_it_does():
    assert all(name == method.name and method.help for name, method in METHODS.items())
    assert list(METHODS)[:3] == ["t3s", "rrt", "sft"], "help and docs name them in this order"


def test_only_what_masks_a_share_is_a_baseline_and_only_what_selects_reads_log_probs():
    for method in METHODS.values():
        assert method.selects or method.leaves_out or not (method.baseline or method.needs)
        kinds = (method.selects, method.transfers, method.weigh, method.leaves_out)
        assert sum(map(bool, kinds)) <= 1
        assert set(method.reads(None)) <= set(READABLE)


def test_a_new_method_is_one_entry(monkeypatch):
    """What a method is handed: here one that keeps the tokens whose confidence has fallen."""
    fallen = Method("fallen", "keep what fell", lambda s: s.at("theta_b") < s.at("theta_0"),
                    needs=("theta_0", "theta_b"))  # fmt: skip
    monkeypatch.setitem(METHODS, "fallen", fallen)
    assert kept("fallen") == (C_B < C_0).tolist()
    with pytest.raises(ValueError, match="fallen needs log-probs at theta_b"):
        kept("fallen", c_b=None)


def test_ties_at_the_bound_are_cut_as_a_stable_sort_would():
    draw = np.random.default_rng(5)
    for n in (1, 2, 7, 400):
        values = draw.integers(-3, 3, n).astype(np.float32)
        for masked in {0, 1, n // 3, n - 1, n}:
            kept = keep_mask("mask-bottom-confidence", n=n, c_0=values, c_b=None, share=masked / n)
            expected = np.ones(n, dtype=bool)
            expected[np.argsort(values, kind="stable")[: round(masked / n * n)]] = False
            assert (kept == expected).all()


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.decides_alone])
def test_what_decides_about_each_token_alone_may_be_asked_in_pieces(method):
    draw = np.random.default_rng(6)
    c_0, c_b = (-draw.random(1000, dtype=np.float32) for _ in range(2))
    extra = {"temperature": 0.5} if method == "t3s-soft" else {}
    whole = keep_mask(method, n=1000, c_0=c_0, c_b=c_b, **extra)
    pieces = [
        keep_mask(method, n=len(c_0[some]), c_0=c_0[some], c_b=c_b[some], **extra)
        for some in (slice(0, 333), slice(333, 334), slice(334, 1000))
    ]
    assert (np.concatenate(pieces) == whole).all()
    counts = SelectionCounts()
    for some in (slice(0, 333), slice(333, 1000)):
        counts.add(whole[some], delta_c(c_b[some], c_0[some]))
    expected = selection_counts(whole, delta_c(c_b, c_0))
    assert counts.to_dict() == pytest.approx(expected)


def test_baselines_compare_tokens():
    assert not any(METHODS[name].decides_alone for name in MASKING_BASELINES)
    assert not METHODS["sft"].decides_alone
