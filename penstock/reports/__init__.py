"""Statistics over seeds, figures, videos, tables and the progress display."""
