"""Decoding with blocks of mask tokens: engine, key-value cache, CUDA graphs, timing."""
