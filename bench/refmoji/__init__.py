"""RefMoji: a synthetic referring-segmentation dataset that needs no download.

Scenes are composed of openly licensed emoji drawings on procedural backgrounds; masks are exact and every expression
is unambiguous by construction. One scene depends on nothing but its seed, its split and its index.

    lexicon -> what things are called          levels  -> easy, medium, full
    assets, backgrounds -> pixels              layout  -> Scene (numbers only)
    render  -> image and object map          seen    -> what can be said of each visible object
    claims  -> statements with a strict and a loose reading
    phrases, expressions, questions -> words   manifest -> the frozen evaluation questions
    build   -> files on disk
"""
