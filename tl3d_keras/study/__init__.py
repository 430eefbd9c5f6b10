"""What a study of training sizes found: its scores, their statistics, tables and pages."""
