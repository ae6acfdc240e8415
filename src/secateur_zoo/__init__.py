"""The weights and pictures that `secateur.zoo` loads; the package has no code."""
