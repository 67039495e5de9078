from readability import figures


def pytest_terminal_summary(terminalreporter):
    """How the scripts read: figures to look at, which no test asks for."""
    for row in figures():
        terminalreporter.write_line(row)
