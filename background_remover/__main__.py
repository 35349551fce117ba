"""`python -m background_remover` is `cutout`."""

from background_remover.cli import main

if __name__ == "__main__":
    main()
