"""Where the files of sandboxes and containers are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from generated.plans import plan_sandbox
from runtime.transforms import facts

IMAGE_VOLUMES: Final = "image-volumes"
_HOST_SHM: Final = "/dev/shm"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of every object's files, in the two directories that the server owns."""

    root: Path
    """``Config.root_dir``: survives a reboot."""
    state: Path
    """``Config.state_dir``: does not survive a reboot."""

    def sandbox(self, metadata: facts.SandboxMetadata) -> facts.SandboxFiles:
        """The files of a sandbox; this creates nothing."""
        root = self.root / "sandboxes" / metadata.id
        state = self.state / "sandboxes" / metadata.id
        plan = plan_sandbox(metadata.config)
        owns_network = plan.uid_mapping and not plan.on_node_network
        return facts.SandboxFiles(
            root_dir=str(root),
            state_dir=str(state),
            hostname=str(root / "hostname"),
            hosts=str(root / "hosts"),
            resolv_conf=str(root / "resolv.conf"),
            shm=_HOST_SHM if plan.shares_node_ipc else str(state / "shm"),
            userns=str(state / "pinned-namespaces" / "user") if owns_network else "",
        )

    def image_volumes(self, sandbox_id: str) -> Path:
        """The directory of a pod's mounted images; the built-in plugin's as well."""
        return self.state / IMAGE_VOLUMES / sandbox_id

    def container_root(self, container_id: str) -> Path:
        """The directory of a container's status file and volumes."""
        return self.root / "containers" / container_id

    def container_checkpoint(self, container_id: str) -> Path:
        """The directory of a checkpoint that is being written; the built-in plugin's as well."""
        return self.container_root(container_id) / "ctrd-checkpoint"

    def container_restore(self, container_id: str) -> Path:
        """The checkpoint that a container starts from; the built-in plugin's directory as well."""
        return self.container_root(container_id) / "ctrd-restore"

    def container_state(self, container_id: str) -> Path:
        """The directory of a container's FIFOs."""
        return self.state / "containers" / container_id

    def container_status(self, container_id: str) -> Path:
        """A container's status file."""
        return self.container_root(container_id) / "status"

    def container_status_copy(self, container_id: str) -> Path:
        """Where a container's status is kept while its status file cannot be written."""
        return self.container_state(container_id) / "status"
