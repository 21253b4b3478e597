"""What the papers claim about accuracy, as pairs of variants that `genseg ablation` asks."""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """`more` and `less`: our variants with the part and without it; `table`: where the paper has its figures, with the
    names of the rows there."""

    text: str
    method: str
    metric: str
    more: str
    less: str
    table: str = ""
    printed_more: str = ""
    printed_less: str = ""

    @property
    def pair(self) -> str:
        """The variant of its record of protocol "difference"."""
        return f"{self.more} against {self.less}"


HML, LENGTH, BOX = "HML ablation", "token-length ablation", "mask tokens before box (figure)"
CLAIMS = (
    Claim("the hierarchical mask loss helps", "himtok", "ciou", "hierarchy=paper", "hierarchy=off", HML,
          "w/ HML", "w/o HML"),
    Claim("32 mask tokens are better than 16", "himtok", "ciou", "tokens=32", "tokens=16", LENGTH,
          "32 minus 16 tokens"),
    *(Claim("a box is better after 32 mask tokens than after none", "himtok", metric, "box_after=32", "box_after=0",
            BOX, "32 mask tokens then box", "0 mask tokens then box") for metric in ("acc@0.5", "acc@0.9")),
    Claim("ten scales are better than one", "argenseg", "ciou", "short", "short, scales=single"),
    Claim("visual tokens are better than hidden states", "argenseg", "ciou", "short", "short, head=hidden"),
    Claim("tokens should see their whole scale, as VAR's do", "argenseg", "ciou", "intra_scale=full",
          "intra_scale=causal"),
)  # fmt: skip
