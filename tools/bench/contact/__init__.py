"""The stages of `tools/bench/first_contact.py`, and the reports that are made of their rows."""
