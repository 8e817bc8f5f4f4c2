"""An Edge in a process of its own, to be killed: ``python -m tests.integration.edge_controller PORT RUN_DIR TABLE``."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

from actors.model import Member, Table
from actors.settings import EdgeSettings, Settings
from actors.stores.memory_membership import MemoryMembership
from router.edge import Edge


class FileMembership(MemoryMembership):
    """A table that several processes can read: the test writes it, Edges only look."""

    def __init__(self, path: str) -> None:
        super().__init__(lambda: 1)
        self.path = Path(path)

    def table(self) -> Table:
        ring_version, members = json.loads(self.path.read_text())
        return Table(ring_version, {member["slot"]: Member(**member) for member in members})

    def write(self, ring_version: int, *members: Member) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps([ring_version, [asdict(member) for member in members]]))
        part.rename(self.path)


def settings_for(port: int, run_dir: str) -> Settings:
    return Settings(edge=EdgeSettings(port=port, run_dir=run_dir, poll_s=0.1))  # type: ignore[call-arg]


async def main() -> None:
    edge = Edge(settings_for(int(sys.argv[1]), sys.argv[2]), lambda _: FileMembership(sys.argv[3]))
    await edge.start()
    sys.stdout.write("started\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
