"""The figures: views of records and training logs, as PNG, SVG and PDF, the same bytes for the same input."""
