"""Numbers: what failures and routine changes cost the people who use the API. `python -m bench --help`."""
