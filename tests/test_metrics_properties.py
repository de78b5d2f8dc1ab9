"Properties of the ranking metrics, searched for counter-examples by Hypothesis; the definition itself is the oracle."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from mmreid.core import InputError
from mmreid.ranking.metrics import (assert_same_ranking, identity_codes, rank_metrics, rank_metrics_by_definition,
                                    rank_ordered, rank_rows, stable_order)
from mmreid.ranking.protocols import chance

DISTANCES = {
    "ties": st.integers(0, 3).map(float),
    "signed": st.floats(-1, 1, width=32),
    "extreme": st.sampled_from([-np.inf, -0.0, 0.0, 5e-324, 1.0, np.inf]),
    "whole": st.sampled_from([-2**63, -2**63 + 1, 0, 2**53, 2**53 + 1, 2**63 - 1]),      # some are equal in float64
}
TYPES = {"ties": np.float64, "signed": np.float32, "extreme": np.float64, "whole": np.int64}


@st.composite
def rankings(draw):
    "(distance, query ids, gallery ids), options: few identities, so that duplicates and absent ones are common."
    q, g = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    numbers = draw(st.sampled_from(sorted(DISTANCES)))
    distance = draw(arrays(TYPES[numbers], (q, g), elements=DISTANCES[numbers]))
    ids = st.sampled_from(draw(st.sampled_from([[0, 1, 2, 3], ["a", "b", "c"], [-1, 10**12]])))
    query, gallery = draw(st.lists(ids, min_size=q, max_size=q)), draw(st.lists(ids, min_size=g, max_size=g))
    excluded = draw(st.none() | arrays(bool, (q, g)))
    cmc = draw(st.sampled_from(["images", "identities"]))
    return (distance, query, gallery), dict(excluded=excluded, cmc=cmc, max_rank=draw(st.integers(1, 12)))


@given(rankings(), st.integers(1, 40))
def test_agrees_with_the_definition(ranking, chunk):
    args, options = ranking
    assert_same_ranking(rank_metrics(*args, **options, chunk=chunk), rank_metrics_by_definition(*args, **options))


@given(rankings())
def test_counted_is_ordered(ranking):
    "To the last bit: what is counted in sorted distances, and what is read from a stable order."
    (distance, query, gallery), options = ranking
    query, gallery = identity_codes(query, gallery)
    options = {name: options[name] for name in ("excluded", "cmc")}
    counted = rank_rows(distance, query, gallery, **options)
    in_order = rank_ordered(stable_order(distance), query, gallery, **options)
    for values, expected in zip(counted, in_order): np.testing.assert_array_equal(values, expected, strict=True)


@given(rankings(), st.integers(1, 9), st.integers(1, 4))
def test_distractors_and_chunks(ranking, distractors, threads):
    "Images of people who are no query, at borders of chunks and on several threads; to the last bit between chunks."
    (distance, query, gallery), options = ranking
    strangers = np.arange(distractors) % 3 + 10
    strangers = strangers.astype(str) if isinstance(gallery[0], str) else strangers
    wide = np.concatenate([distance, np.resize(distance, (len(query), distractors))], axis=1)
    excluded = options["excluded"]
    if excluded is not None: options["excluded"] = np.pad(excluded, ((0, 0), (0, distractors)))
    args = wide, query, [*gallery, *strangers]
    whole = rank_metrics(*args, **options, chunk=10**6)
    assert_same_ranking(whole, rank_metrics_by_definition(*args, **options))
    for rows in (1, 2, len(query)):
        parts = rank_metrics(*args, **options, chunk=rows * wide.shape[1], threads=threads)
        for name in ("rank", "ap", "inp", "share", "cmc"):
            np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


@given(rankings())
def test_tensors_and_arrays_agree(ranking):
    (distance, query, gallery), options = ranking
    excluded = options["excluded"]
    tensor_options = options | {"excluded": None if excluded is None else torch.from_numpy(excluded)}
    assert_same_ranking(rank_metrics(torch.from_numpy(distance), query, gallery, **tensor_options),
                        rank_metrics(distance, query, gallery, **options))


@given(rankings())
def test_excluded_is_as_good_as_absent(ranking):
    "Each query alone, with its excluded images cut out of the gallery, scores the same."
    (distance, query, gallery), options = ranking
    excluded = options.pop("excluded")
    if excluded is None: return
    whole = rank_metrics(distance, query, gallery, excluded=excluded, **options)
    for i, keep in enumerate(~excluded):
        if not keep.any():
            assert not whole.is_valid[i]
            continue
        kept = [g for g, k in zip(gallery, keep) if k]
        alone = rank_metrics(distance[i:i + 1, keep], query[i:i + 1], kept, **options)
        assert alone.rank[0] == whole.rank[i]
        np.testing.assert_allclose([alone.ap[0], alone.inp[0]], [whole.ap[i], whole.inp[i]])


@given(rankings())
def test_bounds(ranking):
    args, options = ranking
    r = rank_metrics(*args, **options)
    assert r.valid == r.is_valid.sum() and len(r.cmc) == options["max_rank"]
    if r.valid == 0:
        assert np.isnan([*r.cmc, r.mAP, r.mINP, r.chance]).all()
        return
    assert (np.diff(r.cmc) >= 0).all() and 0 <= r.cmc[0] and r.cmc[-1] <= 1
    ok = r.is_valid
    for values in (r.ap[ok], r.inp[ok], r.share[ok]): assert (0 < values).all() and (values <= 1 + 1e-12).all()
    assert (r.share[ok] <= r.inp[ok] + 1e-12).all()     # the last positive is ranked no later than the gallery's end
    assert r.chance == pytest.approx(chance(*args[1:], options["excluded"]))


@given(rankings())
def test_identities_never_rank_below_images(ranking):
    args, options = ranking
    images, identities = (rank_metrics(*args, **options | {"cmc": cmc}) for cmc in ("images", "identities"))
    assert (identities.rank <= images.rank).all()
    assert images.valid == 0 or images.cmc[0] == identities.cmc[0]
    np.testing.assert_array_equal(images.ap, identities.ap)


@settings(deadline=None)
@given(rankings(), st.data())
def test_nan_is_refused_by_name(ranking, data):
    (distance, query, gallery), options = ranking
    row, column = (data.draw(st.integers(0, n - 1)) for n in distance.shape)
    if distance.dtype.kind == "i": distance = distance.astype(float)
    distance[row, column] = np.nan
    with pytest.raises(InputError, match=f"query row {row}, gallery column {column}$"):
        rank_metrics(distance, query, gallery, **options, chunk=3)


@given(arrays(st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
              st.tuples(st.integers(1, 6), st.integers(1, 12)), elements=st.integers(0, 4)))
def test_order_is_the_stable_one(distance):
    np.testing.assert_array_equal(stable_order(distance), np.argsort(distance, axis=1, kind="stable"))


@pytest.mark.parametrize("positive", [True, False])
def test_one_image_gallery(positive):
    r = rank_metrics([[.3], [.1]], ["a", "a"], ["a" if positive else "b"])
    assert r.valid == 2 * positive
    np.testing.assert_array_equal(r.cmc, np.full(20, 1. if positive else np.nan))


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_large_galleries(seed):
    "Vectorised sorting takes other paths on long rows than on short ones."
    rng = np.random.default_rng(seed)
    distance = np.round(rng.random((20, 3000), dtype=np.float32), int(rng.integers(2, 8)))
    args = distance, rng.integers(0, 60, 20), rng.integers(0, 60, 3000)
    for cmc in ("images", "identities"):
        options = dict(excluded=rng.random((20, 3000)) < .1, cmc=cmc)
        assert_same_ranking(rank_metrics(*args, **options), rank_metrics_by_definition(*args, **options))
