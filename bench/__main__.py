"""`python -m bench` is `genseg`."""

from bench.cli import main

if __name__ == "__main__":
    main()
