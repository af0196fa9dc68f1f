"""The report of a sweep: one HTML page that needs no network, and its pictures as PNG.

Everything in it is a function of the journal: the same lines give the same bytes.
"""
