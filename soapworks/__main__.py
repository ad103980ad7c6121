"""``python -m soapworks``: the command line."""

from soapworks.flows.cli import main

if __name__ == "__main__":
    main()
