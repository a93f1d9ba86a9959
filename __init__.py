"""PersonalQ: ComfyUI loads this file and asks it for the nodes."""

from comfy_api.latest import ComfyExtension, io

from .nodes import check_in, routes, taq  # noqa: F401  (routes adds itself to the server)

WEB_DIRECTORY = "./web"


class PersonalQ(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*check_in.NODES, *taq.NODES]


async def comfy_entrypoint() -> ComfyExtension:
    return PersonalQ()
