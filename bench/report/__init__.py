"""Views of the records: tables, figures, qualitative grids. Nothing here imports torch or holds a number by hand."""
