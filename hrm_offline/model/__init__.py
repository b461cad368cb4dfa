"""The recurrent network and its halting."""
