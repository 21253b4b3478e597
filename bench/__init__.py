"""The harness: data, training, evaluation, latency and reports, for any method that keeps methods/base.py."""
