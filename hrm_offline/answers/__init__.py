"""Count votes, write the submission and score it. numpy only, never torch."""
