"""Charts as SVG text, for the report and the evaluation."""
