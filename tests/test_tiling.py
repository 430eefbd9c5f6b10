"""Plans: every voxel once, at multiples of the stride, within the memory, in the least time."""

import itertools

import numpy as np
import pytest

from tl3d_keras import tile_cost, tile_planner, tiling
from tl3d_keras.errors import InputError
from tl3d_keras.geometry import Geometry
from tl3d_keras.tile_cost import Network
from tl3d_keras.tiling import plan_axis, plan_overlapping, plan_patches

PAPER = Network(4, "valid", 32, 23, 1, None, "mixed_bfloat16")
TINY = Network(2, "same", 2, 3, 1, None, "float32")


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [1, 7, 44, 61, 200])
@pytest.mark.parametrize("step", [1, 24, 40, 1000])
def test_tiles_cover_the_axis_once_at_multiples_of_the_stride(padding, size, step):
    geometry = Geometry(4, padding)
    spans = plan_axis(size, geometry, step)
    assert [s.start for s in spans] == [0, *(s.stop for s in spans[:-1])]
    assert spans[-1].stop == size
    for span in spans:
        assert geometry.is_input_size(span.read_size)
        assert (span.read_start + geometry.margin) % 8 == 0
        assert span.skip == span.start - span.read_start - geometry.margin
        assert span.skip + span.stop - span.start <= geometry.output_size(span.read_size)
        if padding == "same":
            # What is kept lies within reach of the image's own border alone.
            whole = -(-size // 8) * 8
            assert span.skip >= geometry.reach or span.read_start == 0
            end = span.read_start + span.read_size
            assert end - span.stop >= geometry.reach or end == whole


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_tiles_cover_what_is_wanted(padding):
    spans = plan_axis(100, Geometry(3, padding), 12, 20, 77)
    assert (spans[0].start, spans[-1].stop) == (20, 77)
    assert [s.start for s in spans[1:]] == [s.stop for s in spans[:-1]]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [1, 8, 15, 16, 17, 40, 101])
def test_patches_for_normalised_networks_cover_the_axis_once(padding, size):
    geometry = Geometry(2, padding)
    spans = plan_patches(size, geometry, 16 + 2 * geometry.margin)
    assert [s.start for s in spans] == [0, *(s.stop for s in spans[:-1])]
    assert spans[-1].stop == size
    for span in spans:
        assert span.stop > span.start
        assert span.read_size == 16 + 2 * geometry.margin
        assert span.skip == span.start - span.read_start - geometry.margin
        assert 0 <= span.skip and span.skip + span.stop - span.start <= 16
        inner = padding == "same" and 0 < span.start and span.stop < size
        assert not inner or 3 <= span.skip <= 5


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("overlap", [0, 0.5, 0.9])
@pytest.mark.parametrize("size", [1, 8, 15, 16, 17, 40, 101])
def test_weights_of_patches_sum_to_one(padding, size, overlap):
    geometry = Geometry(2, padding)
    spans = plan_overlapping(size, geometry, 16 + 2 * geometry.margin, overlap)
    total = np.zeros(size)
    for span, weight in zip(spans, tiling.blending_weights(spans, 16), strict=True):
        assert span.read_size == 16 + 2 * geometry.margin
        assert span.skip == span.start - span.read_start - geometry.margin >= 0
        assert span.skip + span.stop - span.start <= 16
        total[span.start : span.stop] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    for one, other in itertools.pairwise(spans):
        assert one.stop - other.start >= overlap * 16 - 1e-6


def test_the_middle_of_a_patch_weighs_most():
    spans = plan_overlapping(24, Geometry(2, "same"), 16, 0.5)
    first, second = tiling.blending_weights(spans, 16)
    assert len(spans) == 2 and (np.diff(first[8:]) < 0).all() and first[8] > 0.99
    np.testing.assert_allclose(first[8:], second[:8][::-1], rtol=1e-5)


def largest(axes):
    return tuple(max(s.read_size for s in spans) for spans in axes)


@pytest.mark.parametrize("gib", [1.5, 3, 20])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_long_scan_fits_the_memory(gib, padding):
    network = PAPER._replace(padding=padding)
    axes = tile_planner.plan_tiles((1500, 512, 512), network, gib * 2**30)
    cost = tile_cost.of_tile(network, largest(axes))
    assert 0.5 * gib * 2**30 < cost.bytes <= gib * 2**30 or cost.numbers > 2**29
    assert cost.numbers < 2**31


def test_less_memory_takes_longer_and_no_plan_with_cubes_is_faster():
    shape, before = (90, 200, 300), 0.0
    for gib in (16, 8, 4, 2, 1):
        found = tile_planner.seconds_of(tile_planner.plan_tiles(shape, PAPER, gib * 2**30), PAPER)
        cubes = []
        for step in range(8, 304, 8):
            axes = tuple(plan_axis(n, Geometry(4, "valid"), step) for n in shape)
            if tile_cost.of_tile(PAPER, largest(axes)).bytes <= gib * 2**30:
                cubes.append(tile_planner.seconds_of(axes, PAPER))
        assert before <= found <= min(cubes) + 1e-9
        before = found


def test_too_little_memory_says_how_much_is_needed():
    with pytest.raises(
        InputError, match=r"at least 0\.\d+ GiB for the smallest tile .*found 0\.00"
    ):
        tile_planner.plan_tiles((300, 300, 300), PAPER, 1e6)
    with pytest.raises(InputError, match="found 0.00 GiB left"):
        tile_planner.plan_tiles((300, 300, 300), PAPER, -1e6)


def test_arithmetic_by_hand():
    """One level: 1 -> 2 -> 4 filters, then 3 classes."""
    network = TINY._replace(levels=1)
    flops = 2 * 8**3 * (27 * 1 * 2 + 27 * 2 * 4 + 4 * 3)
    assert tile_cost.of_tile(network, (8, 8, 8)).flops == flops
    assert tile_cost.nominal_flops(network, (8, 8, 8)) == flops


def test_upsampled_features_take_8_of_27_parts_of_the_arithmetic():
    """Two levels: 8 coarse channels and 4 of the skip connection make 4 fine ones."""
    saved = 2 * 8**3 * (27 - 8) * 8 * 4
    whole = tile_cost.nominal_flops(TINY, (8, 8, 8))
    assert tile_cost.of_tile(TINY, (8, 8, 8)).flops == whole - saved
