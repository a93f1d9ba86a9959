"""Small models of SD1.5's class with random weights, and what is done with them."""

import copy
import importlib

import torch

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
}


def random_source(host, **changed):
    supported = importlib.import_module("comfy.supported_models")
    base = importlib.import_module("comfy.model_base")
    patcher = importlib.import_module("comfy.model_patcher")
    torch.manual_seed(0)
    config = supported.SD15(UNET | changed)
    config.unet_config |= {"dtype": torch.float32, "num_heads": 8, "num_head_channels": -1}
    model = base.BaseModel(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
            parameter.data *= 0.4
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
    return patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def load(patcher):
    importlib.import_module("comfy.model_management").load_models_gpu([patcher])


def predict(patcher, loaded=False):
    if not loaded:
        load(patcher)
    generator = torch.Generator().manual_seed(2)
    noise, context = (
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.randn(2, 77, 768, generator=generator),
    )
    with torch.no_grad():
        return patcher.model.apply_model(noise, torch.tensor([5.0, 5.0]), c_crossattn=context)


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def patches_of(host, source, kind, seed=1):
    """Patches of one LoRA family on every attention, feed-forward and residual layer."""
    adapters = importlib.import_module("comfy.weight_adapter")
    random = torch.Generator().manual_seed(seed)

    def draw(*shape, size=0.05):
        return size * torch.randn(*shape, generator=random)

    patches = {}
    for name, layer in host.quantizable(source.model.diffusion_model):
        if not any(part in name for part in ("attn", "ff", "in_layers")):
            continue
        rows, columns, rest = layer.weight.shape[0], layer.weight.shape[1], layer.weight.shape[2:]
        up, down = draw(rows, 4, *[1] * len(rest)), draw(4, columns, *rest)
        if kind == "LoRA":
            patch = adapters.LoRAAdapter(set(), (up, down, 2.0, None, None, None))
        elif kind == "Tucker LoCon":
            middle = draw(4, 4, *rest, size=1) if rest else None
            down = draw(4, columns, *[1] * len(rest))
            patch = adapters.LoRAAdapter(set(), (up, down, None, middle, None, None))
        elif kind == "DoRA":
            norms = layer.weight.flatten(1).norm(dim=1).view(-1, *[1] * (layer.weight.dim() - 1))
            patch = adapters.LoRAAdapter(set(), (up, down, 4.0, None, 1.05 * norms, None))
        elif kind == "LoHa":
            flat = layer.weight[0].numel()
            a, b, c, d = draw(rows, 2), draw(2, flat), draw(rows, 2, size=1), draw(2, flat, size=1)
            patch = adapters.LoHaAdapter(set(), (a, b, 2.0, c, d, None, None, None))
        else:
            small = draw(rows // 8, columns // 8, *rest)
            weights = (draw(8, 8, size=1), small, None, None, None, None, None, None, None)
            patch = adapters.LoKrAdapter(set(), weights)
        patches[f"diffusion_model.{name}.weight"] = patch
    return patches


FAMILIES = ["LoRA", "Tucker LoCon", "DoRA", "LoHa", "LoKr"]


def draw(patcher, positive, negative, cfg=5.0):
    """Two Euler steps of an 8 x 8 latent."""
    sample = importlib.import_module("comfy.sample").sample
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return sample(
        patcher, noise, 2, cfg, "euler", "normal", positive, negative, torch.zeros(1, 4, 8, 8),
        disable_pbar=True, seed=3,
    )  # fmt: skip


def conditioning(seed, tokens=77, **more):
    text = torch.randn(1, tokens, 768, generator=torch.Generator().manual_seed(seed))
    return [[text, dict(more)]]


def hooks_of(patcher, patches):
    """Hooks for a conditioning: the patcher wears the patches while it computes that prompt."""
    hooks = importlib.import_module("comfy.hooks")
    group, hook = hooks.HookGroup(), hooks.WeightHook()
    hook.hook_ref, hook.need_weight_init = hooks._HookRef(), False
    hook.weights = patches
    group.add(hook)
    patcher.add_hook_patches(hook, patches, 1.0)
    return group


def dynamic(source):
    """A stand-in for the patcher that newer versions of ComfyUI use on GPUs: it fetches weights
    while the model runs, and is cloned to a plain one from its file."""
    patcher = importlib.import_module("comfy.model_patcher").ModelPatcher

    class Dynamic(patcher):
        files_read = 0
        can_be_read = True

        def is_dynamic(self):
            return True

        def clone(self, disable_dynamic=False, model_override=None):
            plain = patcher.clone(self)
            if not disable_dynamic:
                return plain
            if model_override is None:
                if not Dynamic.can_be_read:
                    raise RuntimeError("cached_patcher_init is not initialized.")
                Dynamic.files_read += 1
                shared = self.model.model_config  # which newer versions do not let be copied
                model = copy.deepcopy(self.model, {id(shared): shared})
                model_override = model, ({}, {}, {}, set())
            plain.__class__ = patcher
            plain.model, (plain.backup, _, plain.object_patches_backup, _) = model_override
            return plain

        def patch_weight_to_device(self, *_, **__):
            raise AssertionError("its weights are not there")

    source.__class__ = Dynamic
    return source
