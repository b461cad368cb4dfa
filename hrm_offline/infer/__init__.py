"""Prediction over augmented views, voting, and the submission with its score."""
