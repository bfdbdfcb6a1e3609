"""What a request's constraints and the operator's rules fix, before anything is looked at. Knows no vectors and no models."""
