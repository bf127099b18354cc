"""`flashvsr batch`: many inputs, one warm model."""
