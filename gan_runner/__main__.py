"""`python -m gan_runner`, and the console script."""


def main() -> None:
    """The command line, with SIGINT as soon as may be."""
    try:
        from gan_runner.cli.main import main
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    main()


if __name__ == "__main__":
    main()
