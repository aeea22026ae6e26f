# SPDX-License-Identifier: Apache-2.0
"""Ways of tuning: each does what its paper does, and goes on after an interruption."""

from dataclasses import replace

import numpy as np
import pytest

from qcompile import rank_decay, saliency, sharpness
from qcompile.passes.transform.saliency_rank import low_rank
from qcompile.rank_decay import RankDecay
from qcompile.recipe import TUNING_WORDS
from qcompile.reverse import Tape
from qcompile.saliency import Saliency
from qcompile.sharpness import Disorder, Sharpness
from qcompile.tape_weights import weights_of
from qcompile.tunable import Adam, Bias, tunables
from qcompile.tuning_ways import Start, Way
from qcompile.tunings import TUNINGS
from tests.pipeline.test_tune import Net, images

STEPS = 12


def test_words() -> None:
    assert tuple(TUNINGS) == TUNING_WORDS


@pytest.fixture(scope="module")
def net() -> Net:
    return Net("w2a8")


def begun(net: Net, way: Way) -> Way:
    """Before the first step on the net's first samples."""
    tape = Tape.of(net.quantized.clone(), net.plan)
    found, feed = tunables(tape), {"x": images(8)}

    def values(names: list[str]) -> dict:
        return tape.run({n: each.real() for n, each in found.items()}, feed, names)

    way.prepare(Start(tape, net.model, found, 0.5, STEPS, values))
    way.tape, way.feed = tape, feed
    return way


def gradients(way: Way):
    """Of the mean square of the outputs."""

    def of(leaves: dict) -> dict:
        (name, y), *_ = way.tape.run(leaves, way.feed, keeps=True).items()
        return way.tape.reverse({name: 2 * y / np.float32(y.size)})

    return of


def walked(way: Way, first: int, last: int, adam: Adam) -> dict:
    of = gradients(way)
    for step in range(first, last):
        adam.step(way.slopes(of, step), 4e-3, way.stays)
    return {n: each.t.copy() for n, each in way.found.items()}


@pytest.mark.parametrize("word", [w for w in TUNINGS if w != "plain"])
def test_an_interrupted_way_goes_on(net: Net, word: str) -> None:
    whole = begun(net, TUNINGS[word]())
    wanted = walked(whole, 0, STEPS, Adam(whole.found))
    first = begun(net, TUNINGS[word]())
    adam = Adam(first.found)
    walked(first, 0, 7, adam)
    other = begun(net, TUNINGS[word]())
    other.take(first.arrays())
    for name, each in first.found.items():
        other.found[name].t = each.t
    found = walked(other, 7, STEPS, Adam(other.found, dict(adam.moments), adam.steps))
    assert all(np.array_equal(found[n], t) for n, t in wanted.items())
    plain = begun(net, Way())
    usual = walked(plain, 0, STEPS, Adam(plain.found))
    assert any(not np.array_equal(usual[n], t) for n, t in wanted.items())


# Sharpness


def test_the_gradient_is_that_of_here_and_of_the_worst_point_near_by(net: Net) -> None:
    way, plain = begun(net, Sharpness()), begun(net, Way())
    of, here = gradients(way), plain.slopes(gradients(plain), 0)
    size = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in here.values()))
    before = {n: each.t for n, each in way.found.items()}
    made = way.slopes(of, 0)
    assert all(way.found[n].t is t for n, t in before.items())
    for name, slope in here.items():
        moved = np.float32(sharpness._RADIUS / size) * slope
        plain.found[name].t = np.asarray(moved, np.float32)
    worst = plain.slopes(gradients(plain), 0)
    assert all(np.array_equal(made[n], here[n] + worst[n]) for n in made)
    assert any(not np.array_equal(made[n], 2 * here[n]) for n in made)
    # Uphill: the loss at that point is larger.
    loss = [
        float(np.square(next(iter(way.tape.run(w.leaves(), way.feed).values()))).mean())
        for w in (way, plain)
    ]
    assert loss[1] > loss[0]


def test_a_gradient_in_disorder_is_frozen_and_a_steady_one_is_not() -> None:
    disorder = Disorder.of((3,))
    for step in range(sharpness._WINDOW):
        assert not disorder.frozen.any()  # decided at the end of a window
        disorder.see(np.float32([(-1) ** step, 1, 0]))
    assert disorder.frozen.tolist() == [True, False, False]
    for _ in range(sharpness._WINDOW):
        disorder.see(np.float32([1, 1, 1]))
    assert not disorder.frozen.any()


def test_frozen_scales_stay_and_biases_are_never_frozen(net: Net) -> None:
    way = begun(net, Sharpness())
    name = next(n for n, each in way.found.items() if not isinstance(each, Bias))
    way.disorders[name].frozen = np.ones(way.found[name].t.shape, bool)
    moved = walked(way, 0, 3, Adam(way.found))
    assert not moved[name].any()
    assert all(t.any() for n, t in moved.items() if n != name)
    assert not any(isinstance(way.found[n], Bias) for n in way.disorders)


# Saliency


def test_without_a_share_it_is_plain_tuning(net: Net) -> None:
    plain, none = begun(net, Way()), begun(net, Saliency(share=0.0))
    first = walked(plain, 0, STEPS, Adam(plain.found))
    second = walked(none, 0, STEPS, Adam(none.found))
    assert all(np.array_equal(second[n], t) for n, t in first.items())


def test_weights_of_much_saliency_stay_nearer(net: Net) -> None:
    plain, way = begun(net, Way()), begun(net, Saliency())
    ruler, start = begun(net, Saliency()), way.regulariser()
    left = []
    for each in (plain, way):
        for name, t in walked(each, 0, 60, Adam(each.found)).items():
            ruler.found[name].t = t
        left.append(ruler.regulariser())
    assert left[1] < left[0]
    assert start == pytest.approx(saliency._SHARE * 0.5, rel=2.0**-12)  # λ = 0.1 L₀ / R₀


def test_the_slope_of_the_regulariser(net: Net) -> None:
    way = begun(net, Saliency())
    zero = {n: np.zeros_like(each.real()) for n, each in way.found.items()}
    slopes = way.slopes(lambda _: dict(zero), 0)
    name = next(iter(way.wanted))
    each, step = way.found[name], np.float32(2.0**-6)
    for row in range(3):
        sides = []
        for sign in (1, -1):
            each.t = np.zeros_like(each.t)
            each.t[row] = sign * step
            sides.append(way.regulariser())
        each.t = np.zeros_like(each.t)
        # a + b exp(t) + c exp(2 t): the third derivative, below 8 R, times step² / 6
        bound = 8 * max(sides) * step**2 / 6 + 2.0**-20 * max(sides) / step
        assert abs((sides[0] - sides[1]) / (2 * step) - slopes[name][row]) <= bound


def test_saliency_is_the_input_times_the_squared_weight(net: Net) -> None:
    way = begun(net, Saliency())
    tape = way.tape
    each = next(e for e in weights_of(tape, net.model) if e.real.ndim == 4)
    x = tape.run(way.leaves(), way.feed, [each.input])[each.input]
    power = np.square(x.astype(np.float64)).mean((0, 2, 3))
    wanted = power[None, :, None, None] * np.square(each.real)
    wanted /= wanted.mean()
    made = way.weights[each.leaf] / way.weights[each.leaf].mean()
    assert np.abs(made - wanted).max() <= 2.0**-18 * wanted.max()


# RankDecay


def test_the_rank_is_that_of_least_error() -> None:
    error = np.random.default_rng(0).standard_normal((12, 20))
    s = np.linalg.svd(error, compute_uv=False)
    for rank in (1, 4, 12):
        left, right = low_rank(error, rank)
        assert left.shape == (12, rank) and right.shape == (rank, 20)
        found = np.square(error - left.astype(np.float64) @ right).sum()
        least = np.square(s[rank:]).sum()  # Eckart and Young
        bound = 2 * 2.0**-24 * (rank + 2) * np.square(s).sum()
        assert abs(found - least) <= bound
        turned = np.square(error - left[::-1].astype(np.float64) @ right).sum()
        assert turned > least + bound


def test_the_auxiliary_part_decays_to_nothing(net: Net) -> None:
    way = begun(net, RankDecay())
    ranks, adam, of = [], Adam(way.found), gradients(way)
    seen: list[float] = []
    plain = way.leaves()

    def watched(leaves: dict) -> dict:
        apart = [float(np.abs(leaves[n] - array).max()) for n, array in plain.items()]
        seen.append(max(apart))
        return of(leaves)

    for step in range(STEPS):
        adam.step(way.slopes(watched, step), 0.0)
        ranks.append(max((part.rank for part in way.parts.values()), default=0))
    assert ranks[0] == 8 and ranks[-1] == 0
    assert sorted(set(ranks), reverse=True) == [8, 4, 2, 1, 0]
    assert seen[0] > 0 and seen[-1] == 0
    wanted = {e.leaf: e.real for e in weights_of(way.tape, net.model)}
    fresh = begun(net, RankDecay())
    for name, part in fresh.parts.items():  # at first the network is the float one
        real = fresh.leaves()[name] + part.real(0.0).reshape(wanted[name].shape)
        if part.rank == min(part.moved.arrays["left"].shape[0], wanted[name][0].size):
            assert np.abs(real - wanted[name]).max() <= 2.0**-20 * np.abs(wanted[name]).max()


def test_shares_at_both_ends_of_a_phase() -> None:
    assert rank_decay.shares(6, 0.0).tolist() == [1] * 6
    assert np.abs(rank_decay.shares(6, 1.0) - [1, 1, 1, 0, 0, 0]).max() == 0


# In the pipeline


@pytest.mark.slow
@pytest.mark.parametrize("word", [w for w in TUNINGS if w != "plain"])
def test_nodes_and_codes_are_those_of_plain_tuning(net: Net, word: str) -> None:
    plain, tuned = net.tuned(), net.tuned(tuning=word)
    assert [n.name for n in tuned.model.graph] == [n.name for n in plain.model.graph]
    assert net.checks(tuned) == {"tune: codes": True, "tune: outputs": True}
    assert f" with {word} (plain" in tuned.note or f"({word} is no better" in tuned.note
    loss = [float(t.note.rpartition("→ ")[2]) for t in (plain, tuned)]
    assert loss[1] <= loss[0]


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(Exception, match='unknown tuning "sam"'):
        replace(Net("w2a8").recipe, tuning="sam")
