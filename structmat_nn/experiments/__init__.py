"""The experiments of the papers: one configuration each, results as files, tables and figures from them."""
