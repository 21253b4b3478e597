"""Running a method over a dataset and scoring what it wrote."""
