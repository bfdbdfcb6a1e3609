"""Files of intents/ and specialists/ to an immutable `Catalog`, and back. Knows no vectors and no models."""
