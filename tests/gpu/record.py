"""What a check finds."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gan_runner.storage.atomic_files import json_safe, write_bytes


@dataclass
class Record:
    """Numbers, lines, and what did not hold."""

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.notes.append(line)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Write down what is wrong unless something holds; the check goes on."""
        if not holds:
            self.failures.append(otherwise)

    def write(self, path: Path) -> None:
        write_bytes(path, json.dumps(json_safe(asdict(self))).encode())


Check = Callable[[torch.device, Record], None]
