"""The models: two ways to tokenize a segmentation mask, on one InternVL2.5 backbone."""
