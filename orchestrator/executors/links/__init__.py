"""How the workers of a group reach one another, on one machine or on several."""
