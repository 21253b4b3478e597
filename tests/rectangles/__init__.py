"""A whole method as small as one can be: a mask is the rectangle around it. See docs/add_a_method.md."""
