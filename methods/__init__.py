"""The models: two alphabets for writing a segmentation mask, on one InternVL2.5 backbone."""
