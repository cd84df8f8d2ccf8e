"""Result rows -> tables, verdicts, figures."""
