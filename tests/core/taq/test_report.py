"""What quantization did to a model is counted by kind of layer."""

import torch
from torch import nn

from personalq_core.taq import make_plan, quantize
from personalq_core.taq.lora import Branch
from personalq_core.taq.report import describe, sizes_by_kind


def test_what_is_kept_beside_was_no_part_of_the_original():
    model = nn.Sequential(nn.Linear(96, 128), nn.Linear(128, 128))
    plan = make_plan(model, "int8")
    quantize(model, plan)
    bare, before = sizes_by_kind(model), describe(model, plan, 1, "")[0]
    model[0].set_branch("lora", Branch(torch.randn(128, 4), torch.randn(4, 96)))
    model[1].set_branch("saved0", Branch(torch.randn(128, 128)))
    sizes, after = sizes_by_kind(model), describe(model, plan, 1, "")[0]
    beside = sizes.pop("LoRAs and repairs, kept beside")
    assert sizes == bare
    assert (beside.before_bytes, beside.after_bytes) == (0, 2 * (4 * 224 + 128 * 128))
    assert after["before_bytes"] == before["before_bytes"]
    assert after["after_bytes"] == before["after_bytes"] + beside.after_bytes
