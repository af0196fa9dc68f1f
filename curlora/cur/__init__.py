"""Columns and rows of a weight: their selection, the update they make, knowing the weight again."""
