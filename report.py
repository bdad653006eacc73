"""One page about runs: `python report.py RUNS...`; `isorl report` is the same, --help tells more."""

from isorl.experiments.report.write_report import main

if __name__ == "__main__":
    main()
