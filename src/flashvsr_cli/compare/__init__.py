"""Comparing clips: figures, a side-by-side or wipe video, a strip of pictures."""
