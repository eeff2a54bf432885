"""`python -m whorl`: the same as the `whorl` command."""

from whorl.cli.main import main

if __name__ == "__main__":
    main()
