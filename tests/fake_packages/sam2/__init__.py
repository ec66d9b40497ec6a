"""What splatseg uses of SAM 2, with the real package's names and signatures, and masks that can be told in advance.

``tests/test_sam_packages.py`` compares the signatures with the real package where it is installed.
"""
