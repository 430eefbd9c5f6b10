"""Pooled intensities against those of the voxels themselves."""

import numpy as np
import pytest

from tl3d_keras.distribution import KNOTS, describe, pool


def test_describe():
    found = describe(np.arange(201, dtype=np.int16))
    assert (found.voxels, found.mean) == (201, 100.0)
    assert found.std == pytest.approx(np.arange(201).std())
    assert found.percentiles == pytest.approx([2 * k for k in KNOTS])
    assert found.percentile(30.5) == pytest.approx(61)


def test_pool_of_one_is_itself(rng):
    found = describe(rng.normal(size=50))
    assert pool([found]) == found


def test_pool_is_the_distribution_of_all_voxels(rng):
    parts = [rng.normal(m, s, n) for m, s, n in ((0, 1, 4000), (5, 2, 1000), (-3, 0.5, 9000))]
    found, expected = pool([describe(p) for p in parts]), describe(np.concatenate(parts))
    assert found.voxels == expected.voxels
    assert found.mean == pytest.approx(expected.mean)
    assert found.std == pytest.approx(expected.std)
    # Linear between knots: within a few hundredths of the spread.
    np.testing.assert_allclose(found.percentiles, expected.percentiles, atol=0.15)
    np.testing.assert_allclose(found.percentiles[0], expected.percentiles[0])
    np.testing.assert_allclose(found.percentiles[-1], expected.percentiles[-1])


def test_pool_of_constants():
    found = pool([describe(np.full(30, -1024)), describe(np.full(10, 40))])
    assert found.percentile(50) == -1024 and found.percentile(70) == -1024
    assert found.percentile(80) == 40 and found.percentile(100) == 40
    assert found.mean == pytest.approx(-758)


def test_pool_weighs_by_voxels():
    large, small = describe(np.linspace(0, 1, 9900)), describe(np.linspace(100, 101, 100))
    assert pool([large, small]).percentile(98) < 1
    assert pool([large, small]).percentile(99.5) == pytest.approx(100.5, abs=0.02)
