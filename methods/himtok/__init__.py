"""HiMTok (ICCV 2025): a mask as 32 one-dimensional tokens, coarse to fine, written one at a time."""
