"""The absl commands that train, transfer, segment, evaluate and export."""
