"""A saved model comes back bit for bit, without the original; a damaged file is named as such."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from personalq_core.taq import TaqError, file, make_plan, quantize
from personalq_core.taq.lora import Branch


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 320, 3), nn.Conv2d(320, 96, 3, padding=1), nn.GroupNorm(32, 96),
        nn.Flatten(2), nn.Linear(16, 8), nn.Linear(8, 200, bias=False), nn.Linear(200, 72),
    )  # fmt: skip


@pytest.fixture(params=["int8", "int4", "int4_asym"])
def saved(model, request, tmp_path):
    plan = make_plan(model, request.param)
    small = quantize(copy.deepcopy(model), plan)
    small[6].set_branch("saved", Branch(torch.randn(72, 3), torch.randn(3, 200)))
    path = tmp_path / "small.taq.safetensors"
    about = {"trigger": "<bear>", "sources": {"base": "12ab"}, "host": {"class": "X"}}
    file.save(path, file.contents(small, plan, **about))
    return small, path


def test_it_comes_back_bit_for_bit_into_an_empty_frame(model, saved):
    small, path = saved
    loaded = file.load(path)
    assert (loaded.trigger, loaded.sources) == ("<bear>", {"base": "12ab"})
    assert loaded.host == {"class": "X"}
    frame = copy.deepcopy(model).to("meta")
    back = file.restore(frame, loaded)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(back(x), small(x))
    state = small.state_dict()
    assert back.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_damage_is_said(saved):
    _, path = saved
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    damaged = [whole[: len(whole) // 2], whole[:4], b"", bytes(flipped), b"\x80\x04pickle."]
    for data in [*damaged, whole.replace(b"<bear>", b"<boar>")]:
        path.write_bytes(data)
        with pytest.raises(TaqError, match=r"small\.taq\.safetensors is damaged or was changed"):
            file.load(path)


def rewrite(path, change):
    """Change metadata and tensors and give them the right checksum: what a forger would do."""
    with safe_open(path, "pt") as opened:
        about = json.loads(opened.metadata()[file.KEY])
        tensors = {key: opened.get_tensor(key).clone() for key in opened.keys()}  # noqa: SIM118
    about.pop("checksum")
    change(about, tensors)
    about["checksum"] = file._checksum(about, tensors)
    save_file(tensors, path, {file.KEY: json.dumps(about), "format": "pt"})


def holds(key, tensor):
    return lambda _, tensors: tensors.update({key: tensor})


def of_other_types(_, tensors):
    for part in file.PARTS:
        if f"6.{part}" in tensors:
            tensors[f"6.{part}"] = tensors[f"6.{part}"].view(torch.int8)


def of_other_shapes(_, tensors):
    """As many bytes, some of the codes among the scales."""
    codes, scale = (tensors[f"6.{part}"] for part in file.PARTS[:2])
    both = torch.cat([part.view(torch.uint8).view(72, -1) for part in (codes, scale)], 1)
    cut = 2 * scale.element_size() * scale.shape[1]
    tensors["6.weight"] = both[:, :-cut].contiguous().view(codes.dtype)
    tensors["6.weight_scale"] = both[:, -cut:].contiguous().view(scale.dtype)


FORGERIES = {
    "a shape": lambda about, _: about["shapes"].update({"1": [96, 300, 3, 3]}),
    "no shape": lambda about, _: about["shapes"].update({"6": []}),
    "an endless shape": lambda about, _: about["shapes"].update({"6": [72, float("inf")]}),
    "a layer without plan": lambda about, _: about["plan"].pop("1"),
    "no shapes": lambda about, _: about.pop("shapes"),
    "a plan of another type": lambda about, _: about.update({"plan": 3}),
    "a reason of another type": lambda about, _: about["plan"]["1"].update({"reason": []}),
    "a trigger of another type": lambda about, _: about.update({"trigger": 5}),
    "sources of another type": lambda about, _: about.update({"sources": {"base": 5}}),
    "a host of another type": lambda about, _: about.update({"host": []}),
    "parts of other types": of_other_types,
    "parts of other shapes": of_other_shapes,
    "a part too few": lambda _, tensors: tensors.pop("6.weight_scale"),
    "a part too many": holds("6.weight_zero", torch.zeros(8)),
    "a branch too tall": holds("6.branches.saved.up", torch.zeros(73, 3)),
    "a branch too wide": holds("6.branches.saved.down", torch.zeros(3, 199)),
    "a branch of integers": holds("6.branches.saved.up", torch.zeros(72, 3, dtype=torch.int32)),
    "half a branch": lambda _, tensors: tensors.pop("6.branches.saved.down"),
    "a branch's name": holds("6.branches.a.b.up", torch.ones(72, 200)),
    "a branch beside nothing": holds("0.branches.a.up", torch.ones(320, 36)),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_file_never_gets_further_than_an_error(saved, forgery):
    _, path = saved
    rewrite(path, FORGERIES[forgery])
    with pytest.raises(TaqError, match="damaged"):
        file.load(path)


def test_a_nested_header_is_said(saved):
    _, path = saved
    save_file({}, path, {file.KEY: "[" * 100_000})
    with pytest.raises(TaqError, match="damaged"):
        file.load(path)


@pytest.mark.parametrize(
    "newer",
    [
        lambda about, _: about.update({"version": 99}),
        lambda about, _: about["plan"]["1"].update({"format": "int3"}),
        lambda about, _: about["plan"]["1"].update({"colour": "green"}),
    ],
)
def test_a_newer_file_asks_for_an_update(saved, newer):
    _, path = saved
    rewrite(path, newer)
    with pytest.raises(TaqError, match="Update PersonalQ"):
        file.load(path)


def test_other_files_are_told_apart(model, tmp_path):
    path = tmp_path / "plain.safetensors"
    save_file(model.state_dict(), path)
    with pytest.raises(TaqError, match="no TAQ model"):
        file.load(path)
    with pytest.raises(TaqError, match="not there"):
        file.load(tmp_path / "gone.safetensors")


def test_a_frame_that_does_not_fit_is_refused(model, saved):
    _, path = saved
    other = nn.Sequential(*copy.deepcopy(model)[:6], nn.Linear(200, 73))
    with pytest.raises(TaqError, match="6 of shape"):
        file.restore(other, file.load(path))
    for key, bias, words in (
        ("6.bias", None, "lacks 6.bias"),
        ("5.bias", torch.zeros(200), "has 5.bias"),
        ("6.bias", torch.zeros(7), "size mismatch for 6.bias"),
        ("2.bias", torch.zeros(7), "size mismatch for 2.bias"),
    ):
        held = file.load(path)
        held.tensors[key] = bias
        if bias is None:
            del held.tensors[key]
        with pytest.raises(TaqError, match=words):
            file.restore(copy.deepcopy(model), held)
    longer = nn.Sequential(*copy.deepcopy(model), nn.Linear(72, 72))
    with pytest.raises(TaqError, match="lacks 7"):
        file.restore(longer, file.load(path))


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    small, path = saved
    before = path.read_bytes()

    def full(tensors, target, metadata):
        target.write_bytes(b"half a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file, "save_file", full)
    with pytest.raises(TaqError, match="disk full"):
        file.save(path, file.contents(small, make_plan(small, "int8")))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
