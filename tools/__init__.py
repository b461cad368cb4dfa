"""Scripts around the package: rehearse, build, test, benchmark, study, stress."""
