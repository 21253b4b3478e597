"""InternVL2.5 that writes a mask as plain text: outlines of points, or the runs of a grid's rows."""
