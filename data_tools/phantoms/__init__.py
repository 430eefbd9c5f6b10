"""The anatomy behind `data_tools.phantom`, painted structure by structure."""
