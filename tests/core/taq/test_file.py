"""A saved model comes back bit for bit, without the original; a damaged file is named as such."""

import copy
import json
import struct

import pytest
import torch
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
    """Change the metadata and give it the right checksum: what a forger would do."""
    loaded = file.load(path)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    about = json.loads(header["__metadata__"][file.KEY])
    about.pop("checksum")
    change(about)
    about["checksum"] = file._checksum(about, loaded.tensors)
    header["__metadata__"][file.KEY] = json.dumps(about)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_a_forged_file_never_gets_further_than_an_error(saved):
    _, path = saved
    whole = path.read_bytes()
    forgeries = [
        lambda about: about["shapes"].update({"1": [96, 300, 3, 3]}),
        lambda about: about["plan"]["1"].update({"format": "int3"}),
        lambda about: about["plan"].pop("1"),
        lambda about: about.pop("shapes"),
        lambda about: about.update({"plan": 3}),
    ]
    for forge in forgeries:
        path.write_bytes(whole)
        rewrite(path, forge)
        with pytest.raises(TaqError, match="damaged"):
            file.load(path)
    path.write_bytes(whole)
    rewrite(path, lambda about: about.update({"version": 99}))
    with pytest.raises(TaqError, match="Update PersonalQ"):
        file.load(path)


def test_other_files_are_told_apart(model, tmp_path):
    from safetensors.torch import save_file

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
