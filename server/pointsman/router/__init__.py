"""Policy, embedding, index and decision, composed over one immutable snapshot. Knows no engines."""
