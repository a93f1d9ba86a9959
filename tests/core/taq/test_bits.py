"""Calibration lowers the error that is heard; bytes go where they move the prediction least."""

import copy
import functools
import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from personalq_core.taq import KEPT, TaqError, gptq, make_plan, quantize, size_bytes
from personalq_core.taq.bits import fit_plan, sensitivity
from personalq_core.taq.calibrate import (
    Probe,
    Prompts,
    importance,
    inputs,
    make_probes,
    moments_bytes,
    probe_weights,
)  # fmt: skip
from personalq_core.taq.formats import FORMATS
from personalq_core.taq.quantize import packed_together
from personalq_core.taq.repair import repair


class Net(nn.Module):
    """A picture (batch, 128, 4, 4) and a prompt (batch, 5, 128); the second layer hardly counts."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(128, 128, 3, padding=1)
        self.quiet, self.text = nn.Conv2d(128, 128, 1), nn.Linear(128, 128)

    def forward(self, x, context):
        said = self.text(context).mean(1)[:, :, None, None]
        return self.conv(x) + 0.001 * self.quiet(x) + said


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().requires_grad_(False)


def probes_of(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(128, 128, generator=torch.Generator().manual_seed(9)) / 11
    def text(shift, prompts=1):
        return torch.randn(prompts, 5, 128, generator=generator) @ mix + shift

    def predict(context, x, sigma):
        return net(x / (1 + sigma[:, None, None, None]), context)

    texts = {"trigger": text(1.0, 2), "class": text(-1.0), "generic": text(0.0)}
    batches = [
        Prompts(role, range(len(context)), functools.partial(predict, context))
        for role, context in texts.items()
    ]
    return make_probes(batches, (128, 4, 4), (3.0, 1.0, 0.3), seed=seed)


def test_a_probe_is_the_same_each_time_and_roles_share_their_noise(net):
    of_trigger, of_class, _ = probes_of(net)
    first = of_trigger.run()
    assert torch.equal(first, of_trigger.run())
    assert first.shape == (3 * 2, 128, 4, 4)
    assert (of_trigger.role, of_class.role) == ("trigger", "class")

    met = []
    def predict(x, sigma):
        met.append(x)
        return x

    batches = [("trigger", (0, 1, 2)), ("class", (0, 2)), ("class", (1,))]
    for probe in make_probes([Prompts(*b, predict) for b in batches], (1, 2, 2), (2.0,)):
        probe.run()
    assert torch.equal(met[0][[0, 2, 1]], torch.cat(met[1:]))


def test_a_probe_meets_the_way_that_eulers_method_takes():
    met = []
    def predict(x, sigma):
        met.append((x, sigma))
        return torch.full_like(x, 0.5)

    (probe,) = make_probes([Prompts("generic", (0, 1), predict)], (1, 2, 2), (2.0, 1.0))
    for _ in range(2):
        probe.run()
        (start, high), (then, low) = met[-2:]
        assert torch.allclose(then, start - 0.5)
        assert (high.tolist(), low.tolist()) == ([2.0, 2.0], [1.0, 1.0])
    assert torch.equal(met[0][0], met[2][0])


def test_roles_that_are_absent_leave_their_share_to_the_others():
    def weights(*probes):
        return probe_weights([Probe(role, None, prompts=count) for role, count in probes])

    assert weights(("trigger", 2), ("trigger", 1), ("generic", 1)) == pytest.approx(
        [4 / 9, 2 / 9, 1 / 3]
    )
    assert sum(weights(("trigger", 1), ("class", 2), ("class", 1), ("generic", 3))) == (
        pytest.approx(1)
    )


def test_what_is_not_finite_is_refused_in_words(net):
    def predict(x, sigma):
        return torch.where(sigma[:, None, None, None] < 2, torch.nan, x)

    (probe,) = make_probes([Prompts("generic", (0,), predict)], (1, 2, 2), (3.0, 1.0))
    with pytest.raises(TaqError, match="numbers that are not finite"):
        probe.run()

    def deaf():  # one layer hears what never comes out
        net.quiet(torch.full((1, 128, 2, 2), torch.inf))
        return torch.zeros(1)

    for correlations in (True, False):
        with pytest.raises(TaqError, match="hear them is quiet"):
            importance(net, [Probe("generic", deaf)], correlations=correlations)
    assert not any(module._forward_hooks for module in net.modules())


def test_moments_are_those_of_the_inputs_under_any_autocast(net):
    def run():
        with torch.autocast("cpu", torch.bfloat16):
            return net(torch.randn(8, 128, 4, 4), torch.randn(8, 5, 128))

    steps = []
    moments = importance(
        net, [Probe("generic", run)] * 2, progress=lambda *step: steps.append(step)
    )
    assert steps == [(1, 2), (2, 2)]
    assert moments["conv"].shape == (2, 576, 576)
    assert torch.linalg.eigvalsh(moments["conv"]).min() > -1e-4
    squares = importance(net, [Probe("generic", run)], correlations=False)
    assert squares["text"].shape == (128,)
    assert moments_bytes(net) == sum(4 * part.numel() for part in moments.values())
    assert importance(net, [Probe("generic", run)], names={"quiet"}).keys() == {"quiet"}
    assert not any(module._forward_hooks for module in net.modules())


def test_moments_are_means_of_products_weighted_by_role(net):
    given = {"trigger": torch.randn(5, 128), "generic": torch.randn(7, 128)}
    layer = nn.Linear(128, 128)

    def listening(role, calls):
        return Probe(role, lambda: sum(layer(given[role]) for _ in range(calls)), calls)

    steps = []
    found = importance(
        nn.Sequential(layer), [listening("trigger", 1), listening("generic", 3)],
        progress=lambda *step: steps.append(step),
    )["0"]  # fmt: skip
    means = {role: x.T @ x / len(x) for role, x in given.items()}
    assert torch.allclose(found[0], (means["trigger"] * 2 + means["generic"]) / 3, atol=1e-5)
    assert steps == []  # the model as a whole was not called


SIDES = st.tuples(st.integers(1, 3), st.integers(1, 2))


@given(
    kernel=SIDES, step=SIDES, spread=SIDES, padding=st.sampled_from(["same", 0, 1, (2, 1)]),
    mode=st.sampled_from(["zeros", "circular", "reflect"]), most=st.integers(1, 200),
)  # fmt: skip
@torch.no_grad()
def test_a_convolution_is_its_weight_times_its_inputs(kernel, step, spread, padding, mode, most):
    step = 1 if padding == "same" else step
    conv = nn.Conv2d(3, 5, kernel, step, padding, spread, padding_mode=mode)
    x = torch.randn(2, 3, 9, 8)
    out = (conv(x) - conv.bias[:, None, None]).movedim(1, -1).flatten(0, 2)
    found = inputs(conv, x, most) @ conv.weight.flatten(1).T
    at = range(len(out))
    if most < len(out):
        at = [n * (len(out) - 1) // max(1, most - 1) for n in range(most)]
    assert torch.allclose(found, out[at], atol=1e-5)


def test_layers_may_be_called_with_anything_they_take(net):
    layer = nn.Linear(128, 128)

    def run():
        layer(torch.randn(0, 128)), layer(input=torch.randn(5, 128))
        return layer(torch.randn(128))

    (heard,) = importance(nn.Sequential(layer), [Probe("generic", run)]).values()
    assert heard.diagonal(dim1=1, dim2=2).sum() > 100


@pytest.mark.parametrize("name", ["int4", "int4_asym"])
def test_correlations_lower_the_error_on_inputs_that_were_not_calibrated_on(name):
    torch.manual_seed(2)
    weight, mix, fmt = torch.randn(64, 200), torch.randn(40, 200), FORMATS[name]

    def drawn():
        return torch.randn(800, 40) @ mix + 0.3 * torch.randn(800, 200)

    net = nn.Sequential(nn.Linear(200, 64))
    moments = importance(net, [Probe("trigger", lambda: net(drawn())) for _ in range(4)])["0"]
    x = drawn()

    def heard(given):
        back = fmt.dequantize(fmt.quantize(weight, given), 200, torch.float32)
        return ((back - weight) @ x.T).norm()

    assert heard(moments) < 0.6 * heard(None)


@pytest.mark.parametrize("name", ["int4", "int4_asym"])
def test_refinement_never_hears_more_than_gptq_alone(name, monkeypatch):
    torch.manual_seed(3)
    weight, fmt = torch.randn(48, 192), FORMATS[name]
    x = torch.randn(900, 30) @ torch.randn(30, 192) + 0.2 * torch.randn(900, 192)
    moments = (x.T @ x / 900)[None]

    def heard(rounds):
        monkeypatch.setattr(gptq, "REFINEMENTS", rounds)
        back = fmt.dequantize(fmt.quantize(weight, moments), 192, torch.float32)
        return ((back - weight) @ x.T).square().mean().item()

    errors = [heard(rounds) for rounds in (0, 1, 2, 4)]
    assert errors[1] < 0.95 * errors[0]
    assert errors == sorted(errors, reverse=True)


def test_moments_with_silent_and_repeated_columns_still_pack():
    weight, x = torch.randn(8, 128), torch.randn(4, 128)
    x[:, 10], x[:, 20] = 0, x[:, 21]
    fmt = FORMATS["int4"]
    back = fmt.dequantize(fmt.quantize(weight, (x.T @ x)[None]), 128, torch.float32)
    assert back.isfinite().all()
    assert ((back - weight) @ x.T).norm() < 0.2 * (weight @ x.T).norm()


@pytest.mark.parametrize("name", ["int4", "int4_asym"])
@pytest.mark.parametrize("size", [1.0, 1e-12, 1e-18, 1e-25])
def test_what_was_heard_nowhere_or_hardly_still_packs_well(name, size):
    torch.manual_seed(6)
    fmt, weight = FORMATS[name], torch.randn(8, 2048)
    x = size * (torch.randn(1500, 40) @ torch.randn(40, 1024) + torch.randn(1500, 1024))
    moments = torch.zeros(2, 1024, 1024)  # the second half of the columns is silent
    moments[0] = x.T @ x / len(x)
    back = fmt.dequantize(fmt.quantize(weight, moments), 2048, torch.float32)
    plain = fmt.dequantize(fmt.quantize(weight), 2048, torch.float32)
    for half in (slice(0, 1024), slice(1024, None)):
        lost, rounded = (b[:, half] - weight[:, half] for b in (back, plain))
        assert lost.norm() < 1.4 * rounded.norm()
    if size == 1.0:
        heard = [((b - weight)[:, :1024] @ x.T).norm() for b in (back, plain)]
        assert heard[0] < 0.7 * heard[1]


@pytest.mark.parametrize("name", ["int4", "int4_asym"])
@pytest.mark.parametrize("columns", [64, 200, 2100])
def test_weights_rounded_side_by_side_are_as_each_alone(name, columns):
    torch.manual_seed(4)
    fmt, layers = FORMATS[name], [nn.Linear(columns, 24) for _ in range(3)]
    net = nn.Sequential(*layers)
    mix = torch.randn(30, columns)
    run = lambda: sum(layer(torch.randn(400, 30) @ mix) for layer in layers)  # noqa: E731
    moments = list(importance(net, [Probe("generic", run)]).values())
    weights = [layer.weight.detach() for layer in layers]
    together = fmt.quantize_alike(weights, moments)
    for weight, hurt, packed in zip(weights, moments, together):
        alone = fmt.quantize(weight, hurt)
        for part in ("codes", "scale", "zero"):
            one, other = getattr(packed, part), getattr(alone, part)
            assert (one is None and other is None) or torch.equal(one, other)
        back = fmt.dequantize(packed, columns, torch.float32)
        assert (back - weight).norm() < 0.25 * weight.norm()


def test_layers_of_one_shape_are_rounded_together_and_land_where_they_belong(monkeypatch):
    torch.manual_seed(5)
    net = nn.Sequential(*(nn.Linear(128, 96 + 32 * (n % 2)) for n in range(6)))
    exact = [layer.weight.detach().clone() for layer in net]
    run = lambda: sum(layer(torch.randn(300, 128)).sum() for layer in net)  # noqa: E731
    moments = importance(net, [Probe("generic", run)])
    sizes = []

    def pack(fmt, matrices, importance):
        sizes.append(len(matrices))
        return packed_together(fmt, matrices, importance)

    room = 2 * (128 * 128 + 128 * 128)
    monkeypatch.setattr(importlib.import_module("personalq_core.taq.quantize"),
                        "CPU_TOGETHER", room)  # fmt: skip
    done = []
    quantize(net, make_plan(net, "int4"), importance=moments, pack=pack,
             progress=lambda *step: done.append(step))  # fmt: skip
    assert sizes == [2, 1, 2, 1]
    assert done == [(2, 6), (3, 6), (5, 6), (6, 6)]
    for layer, weight in zip(net, exact):
        assert (layer.dense() - weight).norm() < 0.2 * weight.norm()


def test_bytes_go_to_the_layers_that_count_and_stay_below_the_target(net):
    weights = {name: p.clone() for name, p in net.named_parameters()}
    found = sensitivity(net, probes_of(net))
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    assert sensitivity(net, probes_of(net), leave_out=["text"]).keys() == {"conv", "quiet"}
    assert found["quiet"]["int4"] < 1e-3 * found["conv"]["int4"]
    assert found["conv"]["int8"] < 0.02 * found["conv"]["int4"]
    target = 175_000
    plan = fit_plan(net.half(), found, target_bytes=target)
    assert (plan.layers["conv"].format, plan.layers["quiet"].format) == ("int8", "int4")
    assert 0.85 * target < size_bytes(quantize(net, plan)) <= target


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_is_kept_counts_as_it_is(net, dtype):
    net.first = nn.Conv2d(8, 512, 3)  # meets the latent
    found = sensitivity(net, probes_of(net))
    for target in (260_000, 330_000, 420_000):
        model = net.to(dtype) if dtype == torch.float16 else net
        packed = quantize(copy.deepcopy(model), fit_plan(model, found, target_bytes=target))
        assert 0.7 * target < size_bytes(packed) <= target


def test_a_target_error_gives_the_smallest_plan_that_keeps_it(net):
    found = sensitivity(net, probes_of(net))
    exact = fit_plan(net, found, target_error=0.0)
    assert {layer.format for layer in exact.layers.values()} == {KEPT}
    loose = fit_plan(net, found, target_error=1.0)
    assert {layer.format for layer in loose.layers.values()} == {"int4"}


def test_a_target_that_cannot_be_met_names_the_smallest(net):
    with pytest.raises(ValueError, match="smallest plan takes"):
        fit_plan(net, sensitivity(net, probes_of(net)), target_bytes=1000)


def test_a_layer_that_meets_the_latent_stays_whatever_was_found_for_it():
    model = nn.Sequential(nn.Conv2d(4, 128, 3), nn.Conv2d(128, 128, 3), nn.Conv2d(128, 128, 3))
    found = {name: {"int4": 1.0, "int8": 0.01} for name in ("0", "1", "2")}
    plan = fit_plan(model, found, target_bytes=400_000)
    assert [layer.format for layer in plan.layers.values()] == [KEPT, "int8", "int8"]


@pytest.mark.parametrize("moments", [torch.zeros(100), torch.zeros(1, 128, 128)])
def test_a_repair_that_nothing_was_heard_for_is_finite_and_the_same_each_time(moments):
    lost = torch.randn(96, 100)
    before = torch.random.get_rng_state()
    one, other = repair(lost, 6, moments), repair(lost, 6, moments)
    assert torch.equal(one.up, other.up) and torch.equal(one.down, other.down)
    assert one.up.isfinite().all() and one.down.isfinite().all()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", ["none", "squares", "correlations"])
def test_repair_lowers_what_is_heard(kind):
    torch.manual_seed(1)
    lost = torch.randn(96, 100)
    x = torch.randn(500, 6) @ torch.randn(6, 100) + 0.1 * torch.randn(500, 100)
    square = torch.nn.functional.pad(x.T @ x / 500, (0, 28, 0, 28))[None]
    moments = {"none": None, "squares": x.square().mean(0), "correlations": square}[kind]
    branch = repair(lost, 6, moments)
    left = lost - branch.up.float() @ branch.down.float()
    heard = ((left @ x.T).norm() / (lost @ x.T).norm()).item()
    assert heard < {"none": 0.95, "squares": 0.95, "correlations": 0.2}[kind]
