"""The values that travel between the rooms: frozen, plain, without behaviour of any room."""
