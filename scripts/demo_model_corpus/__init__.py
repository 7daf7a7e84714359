"""The text that the demo model learns from: everything here is made by this code or read from the running Python."""
