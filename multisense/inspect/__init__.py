"""What is in the logs, and whether it can be trusted: streams, clocks, bandwidth."""
