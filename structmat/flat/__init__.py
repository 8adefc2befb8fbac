"""The flat pass and what the two formats without nested bases, HODLR and H, share."""
