"""The sections of the page, one module each. `eyas.report.page` lists them under their headings."""
