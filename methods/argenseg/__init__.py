"""ARGenSeg (NeurIPS 2025): a mask as an image, written as the 680 tokens of VAR's ten scales, a scale per step."""
