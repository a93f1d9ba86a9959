"""A small library of one bear in four versions and other things, for the tests of Check-in."""

from personalq_core.library.card import ModelCard


def card(name: str, title: str, trigger: str = "", description: str = "", **fields) -> ModelCard:
    """A LoRA for SD 1.5, as a scan would give it."""
    kind = fields.pop("kind", "lora")
    fields.setdefault("base_family", "sd15")
    fields.setdefault("fingerprint", f"{abs(hash(name)):010x}"[:10])
    return ModelCard(
        id=f"{kind}:{name}", kind=kind, name=name, title=title,
        triggers=(trigger,) if trigger else (), description=description, **fields,
    )  # fmt: skip


BEARS = tuple(
    card(
        f"barnaby_v{number}.safetensors", f"Barnaby v{number}", f"tdybr{number} bear",
        f"Barnaby the bear, {look}.", tags=("toy",), version=f"v{number}", created_at=date,
    )
    for number, look, date in (
        (1, "red bow tie", "2024-01-10T00:00:00Z"),
        (2, "green hat", "2024-06-10T00:00:00Z"),
        (3, "yellow ribbon", "2025-01-10T00:00:00Z"),
        (4, "blue scarf", "2025-06-10T00:00:00Z"),
    )
)  # fmt: skip
OTHERS = (
    card("mug.safetensors", "Striped mug", "mgq cup", "My striped mug."),
    card("house.safetensors", "Old house", "hsq house", "The old house with a red roof."),
    card("ink.safetensors", "Ink wash style", "nkws style", "Ink wash style.", tags=("style",)),
    card("lamp.safetensors", "Reading lamp", "", "A brass lamp, made without a trigger."),
    card("lamp_xl.safetensors", "Reading lamp", "lmpxl", "A brass lamp.", base_family="sdxl"),
)
LIBRARY = BEARS + OTHERS
