"""What a profile may say of the backbone alone. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from methods.internvl.config import ProcessorConfig, refuse_settings_of_new


@dataclass
class ModelConfig:
    """A backbone to be trained from scratch: `size` (a named size), `vocabulary` (entries of the BPE trained on the
    corpus), `image_first`, `system`; or one to continue from: `backbone` (folder of an InternVL model, or random:SIZE
    with `vocabulary` and `texts`) and `processor`."""

    seed: int = 0
    size: str = "nano"
    vocabulary: int = 1024
    image_first: bool = True
    system: str = ""
    backbone: str = ""
    texts: list[str] = field(default_factory=list)
    processor: ProcessorConfig = field(default_factory=ProcessorConfig)

    def __post_init__(self) -> None:
        if self.backbone:
            refuse_settings_of_new(self, self.backbone, ("size", "image_first", "system"))
