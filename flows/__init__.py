"""What people start: flows and the command line."""
