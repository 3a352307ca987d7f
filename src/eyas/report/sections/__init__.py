"""The sections of the page, one module each: ``ID``, ``TITLE`` and ``section(data)``. `eyas.report.page` lists them."""
