"""Models asked in other ways, and models with one part changed, beside what the papers claim of them."""
