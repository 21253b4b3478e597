"""ARGenSeg (NeurIPS 2025): a mask as a picture, written as the 680 tokens of VAR's ten scales, a scale per step."""
