"""The documentation site: the guides where they stand, and a reference made from the code.

`pages` and `links` copy README.md and the guides into a temporary folder. `names`, `configuration`,
`exit_codes` and `log_tags` write the reference beside them. Sphinx, with `conf.py`, makes HTML of all pages.
"""
