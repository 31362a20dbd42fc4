"""The self-contained HTML pages: their templates, styles and scripts, and the one place that fills them in."""
