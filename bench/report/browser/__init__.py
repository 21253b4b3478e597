"""The sample browser: every answer of a run beside its image and the others' answers, to be filtered and sorted."""
