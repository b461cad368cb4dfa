"""Vote, write the submission and score it. numpy only, never torch."""
