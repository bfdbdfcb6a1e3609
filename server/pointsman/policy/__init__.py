"""What the caller's own rules allow, before anything is looked at. Knows no vectors and no models."""
