"""Places of a gang: admission, members, extras, spares, and giving all back."""
