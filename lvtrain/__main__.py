"""`python -m lvtrain` is the `lvtrain` program."""

from lvtrain.cli import main

if __name__ == "__main__":
    main()
