"""Datasets: readers that yield `methods.base.Example`, and the generator of the embedded dataset RefMoji."""
