"""Trained models at work on a user's own images and sentences: `genseg segment`, `generate` and `demo`."""
