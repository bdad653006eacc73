"""The command line of a checkout: `python train.py --help`; `isorl train` is the same."""

from isorl.train import main

if __name__ == "__main__":
    main()
