"""What an operator does to a stack: `python -m ops --help`."""
