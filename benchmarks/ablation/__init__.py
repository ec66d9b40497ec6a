"""What the product's choices are worth, measured against others: ``python -m benchmarks.ablation``.

Imports point down this list:

    rows         tables of settings of the feature fit
    cells        one fit and its measurement, kept in a file; a plan of them
    stress       the table of masks of other kinds
    report       Markdown and JSON over seeds
    plot         the same as a picture
    __main__     the command

    prototype_sources, prototype_cases, prototypes    our kernels against the project's prototypes, a command of its own
"""
