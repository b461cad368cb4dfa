"""Search for programs that reproduce all demonstrations. numpy only, never torch."""
