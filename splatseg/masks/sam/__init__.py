"""Segment Anything in its versions, and its everything-mode on a bounded memory."""
