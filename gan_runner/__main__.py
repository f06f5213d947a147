"""`python -m gan_runner`, and the console script."""


def main() -> None:
    """The command line. Ctrl-C ends it quietly, also while it is still importing."""
    try:
        from gan_runner.cli.main import main

        main()
    except KeyboardInterrupt:
        import logging

        logging.disable()  # while Hydra sets up, torch would log at exit what its caches held
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
